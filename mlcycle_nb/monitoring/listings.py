"""What the magics of monitoring show as tables: alerts, silences, performance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlcycle_nb.notebook.html import badge, figure, table, text_table


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
                figure(one.lag_seconds, "s"),
                one.why,
            )
            for one in self
        ]
