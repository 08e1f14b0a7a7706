"""What the magics of monitoring show as tables: alerts, silences, performance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlcycle_nb.notebook.html import badge, figure, span, table, text_table

if TYPE_CHECKING:
    from mlcycle_nb.monitoring.maintenance import Maintenance


class Listing(list[Any]):
    """Records that show themselves as a table."""

    headers: Sequence[str] = ()
    empty = "nothing"

    def rows(self) -> list[tuple[Any, ...]]:
        """Return one tuple of texts a record; the second column is a status."""
        raise TypeError(f"{type(self).__name__} has no rows")

    def __repr__(self) -> str:
        return text_table(self.headers, self.rows()) if self else self.empty

    def _repr_html_(self) -> str:
        if not self:
            return f"<div>{self.empty}</div>"
        return table(self.headers, [(first, badge(status), *rest) for first, status, *rest in self.rows()])


class Alerts(Listing):
    """Alerts, the newest first."""

    headers = ("alert", "phase", "kind", "service", "since", "subjects", "summary")
    empty = "no alerts"

    def rows(self) -> list[tuple[Any, ...]]:
        return [
            (
                one.id,
                one.phase,
                one.kind,
                one.monitor,
                (one.fired_at or one.created_at).strftime("%Y-%m-%d %H:%M:%S"),
                ", ".join(one.subjects[:8]),
                one.summary,
            )
            for one in self
        ]


class Silences(Listing):
    """Silences, the newest first."""

    headers = ("silence", "phase", "service", "kind", "until", "by", "reason")
    empty = "no silences"

    def rows(self) -> list[tuple[Any, ...]]:
        return [
            (
                one.id,
                one.phase,
                one.monitor,
                one.kind or "every kind",
                one.until.strftime("%Y-%m-%d %H:%M:%S"),
                one.created_by,
                one.reason,
            )
            for one in self
        ]


class MaintenanceWindows(Listing):
    """Maintenance windows, the newest first.

    Parameters
    ----------
    found : iterable of Maintenance
    now : datetime
        The time that "in force" is about.
    """

    headers = ("maintenance", "state", "service", "kind", "when", "by", "reason")
    empty = "no maintenance is planned"

    def __init__(self, found: Iterable[Maintenance], now: datetime) -> None:
        super().__init__(found)
        self._now = now

    def rows(self) -> list[tuple[Any, ...]]:
        return [
            (
                one.id,
                self._state(one),
                f"{one.environment}/{one.model or '*'}",
                one.kind or "every kind",
                one.when,
                one.created_by,
                one.reason,
            )
            for one in self
        ]

    def _state(self, one: Maintenance) -> str:
        until, begins = one.until(self._now), one.next_begin(self._now)
        if one.phase == "planned" and until is not None:
            return f"in force until {until.strftime('%Y-%m-%d %H:%M:%S')}"
        if one.phase == "planned" and begins is not None:
            return f"next {begins.strftime('%Y-%m-%d %H:%M:%S')}"
        return one.phase if one.phase != "planned" else "over"


class AlertActions(Listing):
    """What alerts did by policy, the newest first."""

    headers = ("action", "phase", "alert", "service", "since", "outcome")
    empty = "no alert has done anything"

    def rows(self) -> list[tuple[Any, ...]]:
        since = "%Y-%m-%d %H:%M:%S"
        return [
            (one.action, one.phase, one.alert, one.monitor, one.created_at.strftime(since), one.outcome) for one in self
        ]


class Performances(Listing):
    """How good each version was, by late labels."""

    headers = ("version", "verdict", "metric", "value", "reference", "labels", "coverage", "lag", "why")
    empty = "no labels yet"

    def rows(self) -> list[tuple[Any, ...]]:
        return [
            (
                str(one.version),
                one.outcome,
                one.metric,
                figure(one.value, "", one.low, one.high),
                figure(one.baseline),
                f"{one.labelled}/{one.served}",
                f"{one.coverage:.0%}",
                "n/a" if one.lag_seconds is None else span(one.lag_seconds),
                one.why,
            )
            for one in self
        ]
