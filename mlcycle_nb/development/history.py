"""What was registered, aliased and deployed at any time: read from the audit trail, never from memory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlcycle_nb.notebook.html import heading, table, text_table
from mlcycle_nb.store import Store
from mlcycle_nb.store.audit import events
from mlcycle_nb.store.record import parse_time

_HEADERS = ("time", "event", "version", "what", "by", "reason")
_PROMOTED, _ENDED = "service.promoted", "service.ended"  # deployment's words: it stands above this stage


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change of a model."""

    time: datetime
    event: str
    version: int | None
    detail: dict[str, Any]
    actor: str
    reason: str
    environment: str = ""  # of a deployment

    def row(self) -> tuple[str, ...]:
        """Return it as cells of a table."""
        what = str(self.detail.get("package", ""))[:19]
        if "alias" in self.detail:
            what = f"@{self.detail['alias']}: {self.detail['from'] or '-'} -> {self.detail['to'] or '-'}"
        if self.environment:
            what = f"{self.environment}: {'none' if self.version is None else f'stable is {self.version}'}"
        moment = self.time.strftime("%Y-%m-%d %H:%M:%S")
        return moment, self.event, "-" if self.version is None else str(self.version), what, self.actor, self.reason


@dataclass(frozen=True, slots=True, repr=False)
class ModelHistory:
    """The changes of a model up to a time, and what they made of it."""

    name: str
    at: datetime
    entries: tuple[HistoryEntry, ...]

    @property
    def versions(self) -> tuple[int, ...]:
        """Versions that were registered by then."""
        made = {e.version for e in self.entries if e.event in {"model.registered", "model.adopted"}}
        return tuple(sorted(number for number in made if number is not None))

    @property
    def aliases(self) -> dict[str, int]:
        """Alias -> version as it was then."""
        state: dict[str, int] = {}
        for entry in self.entries:
            if "alias" not in entry.detail:
                continue
            if entry.detail["to"] is None:
                state.pop(entry.detail["alias"], None)
            else:
                state[entry.detail["alias"]] = entry.detail["to"]
        return state

    @property
    def deployments(self) -> dict[str, int]:
        """Environment -> stable version as it was then."""
        state: dict[str, int] = {}
        for entry in self.entries:
            if entry.environment and entry.version is not None:
                state[entry.environment] = entry.version
            elif entry.environment:
                state.pop(entry.environment, None)
        return state

    def __repr__(self) -> str:
        return f"{self._summary()}\n{text_table(_HEADERS, [entry.row() for entry in self.entries])}"

    def _repr_html_(self) -> str:
        return heading(self._summary()) + table(_HEADERS, [entry.row() for entry in self.entries])

    def _summary(self) -> str:
        called = ", ".join(f"@{alias} = {number}" for alias, number in sorted(self.aliases.items())) or "no aliases"
        deployed = "".join(f", {where}: {number}" for where, number in sorted(self.deployments.items()))
        return f"{self.name} at {self.at:%Y-%m-%d %H:%M:%S} UTC: versions {list(self.versions)}, {called}{deployed}"


def model_history(store: Store, name: str, at: datetime) -> ModelHistory:
    """Return what the audit trail says of a model up to and including the time `at`."""
    found = []
    for body in events(store):
        moment = parse_time(body["time"])
        entry = _read(body, name, moment) if moment <= at else None
        if entry is not None:
            found.append(entry)
    return ModelHistory(name, at, tuple(found))


def _read(body: dict[str, Any], name: str, moment: datetime) -> HistoryEntry | None:
    kind, _, about = body["subject"].partition(":")
    detail = {key: value for key, value in body["detail"].items() if key != "phase"}
    model, _, number = about.rpartition("/")
    if kind == "model" and model == name:
        return HistoryEntry(moment, body["event"], int(number), detail, body["actor"], body["reason"])
    environment, _, model = about.rpartition("/")
    if kind == "service" and model == name and body["event"] in {_PROMOTED, _ENDED}:
        stable = detail.get("stable") if body["event"] == _PROMOTED else None
        return HistoryEntry(moment, body["event"], stable, detail, body["actor"], body["reason"], environment)
    return None
