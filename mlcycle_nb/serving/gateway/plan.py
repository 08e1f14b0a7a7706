"""What one environment's gateway should do: the whole of it, as frozen records that refuse nonsense."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.references import check_name

WHOLE = 10_000
"""Weights are integers out of this many, so that sums are exact."""

SOCKET_PATH_LIMIT = 107
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{0,1024}")
_KEY = re.compile(r"[\x21-\x7e]{16,512}")


def _whole_number(value: object, what: str, *, low: int, high: int = 2**62) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidInput(f"{what} must be a whole number from {low} to {high}", value=value)


def _check_socket(socket: str, where: str) -> None:
    if not socket.startswith("/") or "\0" in socket or len(socket.encode()) > SOCKET_PATH_LIMIT:
        raise InvalidInput(
            f"a socket is an absolute path of at most {SOCKET_PATH_LIMIT} bytes", value=socket, where=where
        )


def _check_weights(weights: tuple[tuple[int, int], ...], where: str) -> None:
    for version, weight in weights:
        _whole_number(version, "a version", low=1)
        _whole_number(weight, f"the weight of version {version}", low=0, high=WHOLE)
    if len({version for version, _ in weights}) != len(weights):
        raise InvalidInput("a version is named twice", value=weights, where=where)


def _check_split(split: tuple[tuple[int, int], ...], where: str) -> None:
    _check_weights(split, where)
    total = sum(weight for _, weight in split)
    if total != WHOLE:
        raise InvalidInput(
            f"weights are integers out of {WHOLE:,} that sum to {WHOLE:,}; these sum to {total:,}",
            value=split,
            where=where,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedPlan:
    """One version's own address, ``/v2/models/NAME/versions/N``.

    Parameters
    ----------
    version : int
        The version that the address names.
    split : tuple of (version, weight)
        Who answers there: the version itself, or during retirement also its replacement. Empty when `gone`.
    headers : dict
        Response headers, such as ``Deprecation``, ``Sunset`` and ``Link``.
    gone : bool
        Answer 410 and name the successor.
    successor : str, optional
        Reference of the replacement, such as ``digits/8``.
    """

    version: int
    split: tuple[tuple[int, int], ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    gone: bool = False
    successor: str | None = None

    def __post_init__(self) -> None:
        _whole_number(self.version, "a version", low=1)
        if not self.gone:
            _check_split(self.split, f"the pinned address of version {self.version}")
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise InvalidInput("is not an HTTP header", value=f"{name}: {value}", where=f"version {self.version}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePlan:
    """One model's addresses: the default split, who gets copies, and the versions' own addresses.

    ``gone`` with an empty split answers 410 on the model's address, for a model whose last version is retired.
    """

    model: str
    split: tuple[tuple[int, int], ...] = ()
    mirror: tuple[tuple[int, int], ...] = ()
    pinned: tuple[PinnedPlan, ...] = ()
    gone: bool = False
    successor: str | None = None

    def __post_init__(self) -> None:
        check_name(self.model, "model name")
        if not self.gone:
            _check_split(self.split, f"the split of {self.model}")
        _check_weights(self.mirror, f"the mirror of {self.model}")
        versions = [pinned.version for pinned in self.pinned]
        if len(set(versions)) != len(versions):
            raise InvalidInput("a version is pinned twice", value=versions, where=self.model)

    def versions(self) -> set[int]:
        """Return every version that this plan sends requests to."""
        routes: Iterable[tuple[tuple[int, int], ...]] = (self.split, self.mirror, *(p.split for p in self.pinned))
        return {version for route in routes for version, _ in route}


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionCluster:
    """The replicas of one model version, by their Unix sockets."""

    model: str
    version: int
    sockets: tuple[str, ...]

    def __post_init__(self) -> None:
        check_name(self.model, "model name")
        _whole_number(self.version, "a version", low=1)
        for socket in self.sockets:
            _check_socket(socket, self.name)
        if len(set(self.sockets)) != len(self.sockets):
            raise InvalidInput("a socket is named twice", value=self.sockets, where=self.name)

    @property
    def name(self) -> str:
        """The reference, which is also the cluster's name in Envoy."""
        return f"{self.model}/{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayPlan:
    """Everything one gateway should do.

    Parameters
    ----------
    fence : int
        Number of the leader who wrote it; a lower one than the gateway has seen is refused.
    generation : int
        Counts the plans of one environment; never goes back.
    services, clusters : tuple
        Addresses, and the replicas behind them.
    consumers : dict
        Consumer name to API key.
    intake : str
        Socket of the process that takes labels; empty when there is none.
    """

    fence: int
    generation: int
    services: tuple[ServicePlan, ...] = ()
    clusters: tuple[RevisionCluster, ...] = ()
    consumers: dict[str, str] = field(default_factory=dict)
    intake: str = ""

    def __post_init__(self) -> None:
        if self.intake:
            _check_socket(self.intake, "the intake of labels")
        _whole_number(self.fence, "the fence", low=0)
        _whole_number(self.generation, "the generation", low=0)
        self._check_clusters()
        self._check_consumers()

    def _check_clusters(self) -> None:
        names = [cluster.name for cluster in self.clusters]
        if len(set(names)) != len(names):
            raise InvalidInput("a version has two clusters", value=names)
        models = [service.model for service in self.services]
        if len(set(models)) != len(models):
            raise InvalidInput("a model has two services", value=models)
        sockets = [socket for cluster in self.clusters for socket in cluster.sockets]
        if len(set(sockets)) != len(sockets):
            raise InvalidInput("one socket serves two versions", value=sockets)
        for service in self.services:
            missing = service.versions() - {c.version for c in self.clusters if c.model == service.model}
            if missing:
                raise InvalidInput(
                    "requests would go to versions without replicas", value=sorted(missing), where=service.model
                )

    def _check_consumers(self) -> None:
        for name, key in self.consumers.items():
            check_name(name, "consumer name")
            if not isinstance(key, str) or not _KEY.fullmatch(key):
                raise InvalidInput("the API key must be 16 to 512 printable characters", where=f"consumer {name}")
        if len(set(self.consumers.values())) != len(self.consumers):
            raise InvalidInput("two consumers have the same API key", where="consumers")

    def digest(self) -> str:
        """Return a digest of what is planned, whoever planned it and when."""
        body = asdict(self)
        del body["fence"], body["generation"]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
