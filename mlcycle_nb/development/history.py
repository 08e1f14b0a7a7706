"""What was registered, aliased and deployed at any time: read from the audit trail, never from memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mlcycle_nb.notebook.html import heading, table, text_table
from mlcycle_nb.store import Store
from mlcycle_nb.store.audit import events
from mlcycle_nb.store.record import parse_time

_HEADERS = ("time", "event", "version", "what", "by", "reason")
_WHOLE = 10_000
# Deployment's words, and how it writes shares: it stands above this stage.
_PROMOTED, _ENDED, _ROUTED = "service.promoted", "service.ended", "service.routed"
_SERVICE_EVENTS = frozenset({_PROMOTED, _ENDED, _ROUTED})


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

    @property
    def weights(self) -> dict[int, float]:
        """Version -> its share of the requests, of 1, where this entry changed them."""
        return {int(one["version"]): one["weight"] / _WHOLE for one in self.detail.get("split") or () if one["weight"]}

    @property
    def what(self) -> str:
        """What changed, in words."""
        if "alias" in self.detail:
            return f"@{self.detail['alias']}: {self.detail['from'] or '-'} -> {self.detail['to'] or '-'}"
        if self.event == _ROUTED:
            return f"{self.environment}: {shares(self.weights)}"
        if self.environment:
            return f"{self.environment}: {'none' if self.version is None else f'stable is {self.version}'}"
        if "owners" in self.detail or "reviewers" in self.detail:
            named = (f"{key}: {', '.join(self.detail[key])}" for key in ("owners", "reviewers") if key in self.detail)
            return "; ".join(named)
        return str(self.detail.get("package") or "")[:19]

    def row(self) -> tuple[str, ...]:
        """Return it as cells of a table."""
        moment = self.time.strftime("%Y-%m-%d %H:%M:%S")
        version = "-" if self.version is None else str(self.version)
        return moment, self.event, version, self.what, self.actor, self.reason


@dataclass(frozen=True, slots=True)
class Deployed:
    """What one environment served: the stable version, and who got which share (of 1) of the requests."""

    stable: int | None = None
    weights: dict[int, float] = field(default_factory=dict)

    def __str__(self) -> str:
        stable = "no stable version" if self.stable is None else f"stable is {self.stable}"
        return f"{stable} ({shares(self.weights)})"


@dataclass(frozen=True, slots=True, repr=False)
class ModelHistory:
    """The changes of a model up to a time, and what they made of it.

    Attributes
    ----------
    since : datetime, optional
        Entries before it count for the state, and are not listed.
    """

    name: str
    at: datetime
    entries: tuple[HistoryEntry, ...]
    since: datetime | None = None

    @property
    def versions(self) -> tuple[int, ...]:
        """Versions that were registered by then, and not deleted."""
        found: set[int] = set()
        for entry in self.entries:
            if entry.event in {"model.registered", "model.adopted"} and entry.version is not None:
                found.add(entry.version)
            elif entry.event == "model.deleted" and entry.version is not None:
                found.discard(entry.version)
        return tuple(sorted(found))

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
        return {where: one.stable for where, one in self.deployed.items() if one.stable is not None}

    @property
    def deployed(self) -> dict[str, Deployed]:
        """Environment -> stable version and shares as they were then, wherever anything was served."""
        state: dict[str, Deployed] = {}
        for entry in self.entries:
            if not entry.environment:
                continue
            before = state.get(entry.environment, Deployed())
            if entry.event == _ENDED:
                state.pop(entry.environment, None)
            elif entry.event == _ROUTED:
                state[entry.environment] = Deployed(before.stable, entry.weights)
            else:
                state[entry.environment] = Deployed(entry.version, before.weights)
        return {where: one for where, one in state.items() if one.stable is not None or one.weights}

    @property
    def owners(self) -> tuple[str, ...]:
        """Who owned it then."""
        return self._people("owners")

    @property
    def reviewers(self) -> tuple[str, ...]:
        """Who reviewed it then."""
        return self._people("reviewers")

    @property
    def listed(self) -> tuple[HistoryEntry, ...]:
        """The entries from `since` on."""
        return tuple(entry for entry in self.entries if self.since is None or entry.time >= self.since)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "model": self.name,
            "at": self.at.isoformat(),
            "versions": list(self.versions),
            "aliases": self.aliases,
            "deployed": {
                where: {"stable": one.stable, "weights": {str(v): w for v, w in one.weights.items()}}
                for where, one in self.deployed.items()
            },
            "owners": list(self.owners),
            "entries": [{"time": entry.time.isoformat(), "what": entry.row()[1:]} for entry in self.listed],
        }

    def __repr__(self) -> str:
        return f"{self._summary()}\n{text_table(_HEADERS, [entry.row() for entry in self.listed])}"

    def _repr_html_(self) -> str:
        return heading(self._summary()) + table(_HEADERS, [entry.row() for entry in self.listed])

    def _people(self, key: str) -> tuple[str, ...]:
        named = [entry.detail[key] for entry in self.entries if entry.event == "ownership.changed"
                 and key in entry.detail]  # fmt: skip
        return tuple(named[-1]) if named else ()

    def _summary(self) -> str:
        called = ", ".join(f"@{alias} = {number}" for alias, number in sorted(self.aliases.items())) or "no aliases"
        deployed = "".join(f", {where}: {one}" for where, one in sorted(self.deployed.items()))
        since = "" if self.since is None else f" (since {self.since:%Y-%m-%d %H:%M:%S})"
        moment = f"{self.at:%Y-%m-%d %H:%M:%S} UTC{since}"
        return f"{self.name} at {moment}: versions {list(self.versions)}, {called}{deployed}"


def shares(weights: dict[int, float]) -> str:
    """Return shares of 1 as text: ``1: 95 %, 2: 5 %``."""
    return ", ".join(f"{version}: {100 * share:.4g} %" for version, share in sorted(weights.items())) or "no requests"


def model_history(store: Store, name: str, at: datetime, *, since: datetime | None = None) -> ModelHistory:
    """Return what the audit trail says of a model up to and including the time `at`."""
    found = []
    for body in events(store):
        moment = parse_time(body["time"])
        entry = _read(body, name, moment) if moment <= at else None
        if entry is not None:
            found.append(entry)
    return ModelHistory(name, at, tuple(found), since)


def _read(body: dict[str, Any], name: str, moment: datetime) -> HistoryEntry | None:
    kind, _, about = body["subject"].partition(":")
    if kind not in {"model", "service", "ownership"}:
        return None
    detail = {key: value for key, value in body["detail"].items() if key != "phase"}
    if kind == "ownership":
        return (
            HistoryEntry(moment, body["event"], None, detail, body["actor"], body["reason"]) if about == name else None
        )
    first, _, last = about.rpartition("/")
    if kind == "model" and first == name:
        return HistoryEntry(moment, body["event"], int(last), detail, body["actor"], body["reason"])
    if kind == "service" and last == name and body["event"] in _SERVICE_EVENTS:
        stable = detail.get("stable") if body["event"] == _PROMOTED else None
        return HistoryEntry(moment, body["event"], stable, detail, body["actor"], body["reason"], first)
    return None
