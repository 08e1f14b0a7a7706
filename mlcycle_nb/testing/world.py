"""A world for retirements that lives in memory: traffic, registry and messages, with failures on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlcycle_nb.errors import NotFound, UnknownPlugin

if TYPE_CHECKING:
    from mlcycle_nb.retirement.records import Address
    from mlcycle_nb.retirement.world import Caller


@dataclass
class ScriptedWorld:
    """Does at once what it is told, and remembers each write.

    Attributes
    ----------
    replicas : dict
        (environment, model, version) -> healthy replicas; a missing one does not run.
    ending : dict
        (environment, model, version) -> seconds that a version is kept which is about to end.
    stables : dict
        (environment, model) -> version.
    digests : dict
        (model, version) -> package digest.
    called : dict
        (environment, model, version) -> callers.
    lagging : bool
        While True, what is declared does not come into force.
    before_write : callable
        Called with the name of each write before it happens; raise in it to fail there.
    after_write : callable
        Called after each write; raise in it to be killed there.
    writes : list
        (name, arguments) of each write that happened.
    """

    replicas: dict[tuple[str, str, int], int] = field(default_factory=dict)
    ending: dict[tuple[str, str, int], float] = field(default_factory=dict)
    stopped: dict[tuple[str, str, int], int] = field(default_factory=dict)
    stables: dict[tuple[str, str], int] = field(default_factory=dict)
    digests: dict[tuple[str, int], str] = field(default_factory=dict)
    named: dict[str, dict[str, int]] = field(default_factory=dict)
    tagged: dict[tuple[str, int], dict[str, str]] = field(default_factory=dict)
    called: dict[tuple[str, str, int], list[Caller]] = field(default_factory=dict)
    declared: dict[tuple[str, str, int], Address] = field(default_factory=dict)
    answered: dict[tuple[str, str, int], Address] = field(default_factory=dict)
    channels: tuple[str, ...] = ("log",)
    delivers: bool = True
    lagging: bool = False
    before_write: Callable[[str], None] = lambda name: None
    after_write: Callable[[str], None] = lambda name: None
    writes: list[tuple[str, tuple[object, ...]]] = field(default_factory=list)

    # -- traffic ---------------------------------------------------------------------------------------------

    def running(self, environment: str, model: str, version: int) -> bool:
        return (environment, model, version) in self.replicas

    def warm_seconds(self, environment: str, model: str, version: int) -> float | None:
        return self.ending.get((environment, model, version))

    def healthy(self, environment: str, model: str, version: int) -> int:
        return self.replicas.get((environment, model, version), 0)

    def stable(self, environment: str, model: str) -> int | None:
        return self.stables.get((environment, model))

    def environments(self, model: str, version: int) -> list[str]:
        return sorted(e for e, m, v in self.replicas if (m, v) == (model, version))

    def address(self, environment: str, model: str, version: int) -> Address:
        from mlcycle_nb.retirement.records import Address

        return self.declared.get((environment, model, version), Address())

    def in_force(self, environment: str, model: str, version: int) -> Address:
        from mlcycle_nb.retirement.records import WHOLE, Address

        place = (environment, model, version)
        if place in self.answered:
            return self.answered[place]
        return Address(planned=True, split=((version, WHOLE),)) if place in self.replicas else Address()

    def set_address(self, environment: str, model: str, version: int, address: Address) -> None:
        place = (environment, model, version)

        def change() -> None:
            self.declared.pop(place, None)
            if address.planned:
                self.declared[place] = address
            if not self.lagging:
                self.catch_up()

        self._write("set_address", change, environment, model, version, address)

    def catch_up(self) -> None:
        """Bring everything that is declared into force."""
        self.answered = dict(self.declared)

    def stop(self, environment: str, model: str, version: int) -> None:
        place = (environment, model, version)

        def change() -> None:
            if place in self.replicas:
                self.stopped[place] = self.replicas.pop(place)

        self._write("stop", change, *place)

    def start(self, environment: str, model: str, version: int) -> None:
        place = (environment, model, version)
        self._write("start", lambda: self.replicas.setdefault(place, self.stopped.get(place, 1)), *place)

    def let_go(self, environment: str, model: str, version: int, warm_seconds: float) -> None:
        place = (environment, model, version)
        self._write("let_go", lambda: self.ending.update({place: warm_seconds}), *place, warm_seconds)

    def processes(self, environment: str, model: str, version: int) -> list[str]:
        count = self.replicas.get((environment, model, version), 0)
        return [f"replica-{environment}.{model}.{version}.{index}" for index in range(count)]

    def callers(self, environment: str, model: str, version: int) -> list[Caller]:
        return list(self.called.get((environment, model, version), ()))

    # -- registry --------------------------------------------------------------------------------------------

    def digest(self, model: str, version: int) -> str:
        if (model, version) not in self.digests:
            raise NotFound(f"{model} has no version {version}")
        return self.digests[model, version]

    def versions_with(self, digest: str) -> list[str]:
        return sorted(f"{model}/{version}" for (model, version), one in self.digests.items() if one == digest)

    def aliases(self, model: str) -> dict[str, int]:
        return dict(self.named.get(model, {}))

    def set_alias(self, model: str, alias: str, version: int) -> None:
        self._write(
            "set_alias", lambda: self.named.setdefault(model, {}).update({alias: version}), model, alias, version
        )

    def tags(self, model: str, version: int) -> dict[str, str]:
        return dict(self.tagged.get((model, version), {}))

    def set_tags(self, model: str, version: int, tags: dict[str, str | None]) -> None:
        merged = {**self.tags(model, version), **tags}
        kept = {key: value for key, value in merged.items() if value is not None}
        self._write("set_tags", lambda: self.tagged.update({(model, version): kept}), model, version, tags)

    def lineage(self, model: str, version: int) -> dict[str, object]:
        self.digest(model, version)
        return {"run": f"run-{version}"}

    # -- messages --------------------------------------------------------------------------------------------

    def check(self, channel: str) -> None:
        if channel not in self.channels:
            raise UnknownPlugin("there is no channel of this name", value=channel)

    def send(self, channel: str, key: str, message: dict[str, object]) -> tuple[bool, str]:
        self._write("send", lambda: None, channel, key, message)
        return self.delivers, "" if self.delivers else "nobody listens"

    def _write(self, name: str, change: Callable[[], object], *arguments: object) -> None:
        self.before_write(name)
        change()
        self.writes.append((name, arguments))
        self.after_write(name)
