"""What retirement needs from the stages before it: a few reads and a few writes, each of which may be repeated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from mlcycle_nb.retirement.records import WHOLE, Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A consumer as the gateway counted it at one version."""

    name: str
    requests: int
    pinned: int  # of these, to the version's own address: only who names the version depends on it
    first_seen: datetime
    last_seen: datetime
    last_pinned: datetime | None = None


class Traffic(Protocol):
    """The serving side: deployment's services and the gateway."""

    def running(self, environment: str, model: str, version: int) -> bool:
        """Return whether the version is meant to have replicas in the environment."""
        ...

    def warm_seconds(self, environment: str, model: str, version: int) -> float | None:
        """Return for how long a version that is about to end is kept; None when it stays, or does not run."""
        ...

    def healthy(self, environment: str, model: str, version: int) -> int:
        """Return how many of its replicas get requests."""
        ...

    def stable(self, environment: str, model: str) -> int | None:
        """Return the version that answers the service's default address."""
        ...

    def environments(self, model: str, version: int) -> list[str]:
        """Return the environments in which the version runs."""
        ...

    def address(self, environment: str, model: str, version: int) -> Address:
        """Return what is declared for the version's own address."""
        ...

    def in_force(self, environment: str, model: str, version: int) -> Address:
        """Return what the gateway answers there, read back from it."""
        ...

    def set_address(self, environment: str, model: str, version: int, address: Address) -> None:
        """Declare the address; ``planned=False`` gives it back to the gateway's default. Idempotent."""
        ...

    def stop(self, environment: str, model: str, version: int) -> None:
        """End the version's replicas. Idempotent."""
        ...

    def start(self, environment: str, model: str, version: int) -> None:
        """Bring the version's replicas back. Idempotent."""
        ...

    def let_go(self, environment: str, model: str, version: int, warm_seconds: float) -> None:
        """Have the version's replicas end after a time, unless somebody calls them meanwhile. Idempotent."""
        ...

    def processes(self, environment: str, model: str, version: int) -> list[str]:
        """Return the names of the version's living processes."""
        ...

    def callers(self, environment: str, model: str, version: int) -> list[Caller]:
        """Return who called the version, how often, and when last."""
        ...


class ModelRegistry(Protocol):
    """The registry side: versions, aliases and tags."""

    def digest(self, model: str, version: int) -> str:
        """Return the package digest of a version; NotFound lists what exists."""
        ...

    def versions_with(self, digest: str) -> list[str]:
        """Return every version of any model whose package has this digest."""
        ...

    def aliases(self, model: str) -> dict[str, int]:
        """Return the model's aliases and the versions they name."""
        ...

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Let an alias name another version. Idempotent."""
        ...

    def tags(self, model: str, version: int) -> dict[str, str]:
        """Return the tags of a version."""
        ...

    def set_tags(self, model: str, version: int, tags: dict[str, str | None]) -> None:
        """Set tags, and remove those whose value is None. Idempotent."""
        ...

    def lineage(self, model: str, version: int) -> dict[str, object]:
        """Return where the version came from: run, parameters, data digests; what is not recorded is left out."""
        ...


class Messenger(Protocol):
    """Sends a message over a named channel."""

    def check(self, channel: str) -> None:
        """Raise UnknownPlugin, with the names that exist, when there is no such channel."""
        ...

    def send(self, channel: str, key: str, message: dict[str, object]) -> tuple[bool, str]:
        """Return whether it was delivered, and what the channel said; `key` is the same at every attempt."""
        ...


def same_in_force(declared: Address, seen: Address, version: int, *, running: bool) -> bool:
    """Return whether the gateway answers what is declared.

    An address that is not planned is the version alone, without headers, or not there when the version has no
    replicas.
    """
    if not declared.planned:
        plain = seen.split == ((version, WHOLE),) and not seen.headers and not seen.gone
        return plain or (not running and not seen.planned)
    if declared.gone or seen.gone:
        return declared.gone and seen.gone and declared.successor == seen.successor
    # Weights of 0 are only a way to say that a version gets nothing.
    return _without_zero(declared.split) == _without_zero(seen.split) and _lower(declared.headers) == _lower(
        seen.headers
    )


def _without_zero(split: tuple[tuple[int, int], ...]) -> dict[int, int]:
    return {version: share for version, share in split if share}


def _lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
