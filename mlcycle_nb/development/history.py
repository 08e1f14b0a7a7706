"""What was registered, and what each alias was, at any time: read from the audit trail, never from memory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlcycle_nb.notebook.html import heading, table, text_table
from mlcycle_nb.store import Store
from mlcycle_nb.store.audit import events
from mlcycle_nb.store.record import parse_time

_HEADERS = ("time", "event", "version", "what", "by", "reason")


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change of a model."""

    time: datetime
    event: str
    version: int
    detail: dict[str, Any]
    actor: str
    reason: str

    def row(self) -> tuple[str, ...]:
        """Return it as cells of a table."""
        what = str(self.detail.get("package", ""))[:19]
        if "alias" in self.detail:
            what = f"@{self.detail['alias']}: {self.detail['from'] or '-'} -> {self.detail['to'] or '-'}"
        moment = self.time.strftime("%Y-%m-%d %H:%M:%S")
        return moment, self.event, str(self.version), what, self.actor, self.reason


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
        return tuple(sorted(made))

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

    def __repr__(self) -> str:
        return f"{self._summary()}\n{text_table(_HEADERS, [entry.row() for entry in self.entries])}"

    def _repr_html_(self) -> str:
        return heading(self._summary()) + table(_HEADERS, [entry.row() for entry in self.entries])

    def _summary(self) -> str:
        called = ", ".join(f"@{alias} = {number}" for alias, number in sorted(self.aliases.items())) or "no aliases"
        return f"{self.name} at {self.at:%Y-%m-%d %H:%M:%S} UTC: versions {list(self.versions)}, {called}"


def model_history(store: Store, name: str, at: datetime) -> ModelHistory:
    """Return what the audit trail says of a model up to and including the time `at`."""
    found = []
    for body in events(store, prefix=f"model:{name}/"):
        moment = parse_time(body["time"])
        if moment <= at:
            number = int(body["subject"].rpartition("/")[2])
            detail = {k: v for k, v in body["detail"].items() if k != "phase"}
            found.append(HistoryEntry(moment, body["event"], number, detail, body["actor"], body["reason"]))
    return ModelHistory(name, at, tuple(found))
