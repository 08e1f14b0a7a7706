"""Worker events as metrics of a run: batched, thinned the same way whatever happened in between."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from mlcycle_nb.development.records import MetricRow

POINTS_PER_CURVE = 2000
"""About how many steps of a run are handed on; the events keep all of them."""


def metric_rows(events: Iterable[dict[str, Any]], total_steps: int | None) -> list[MetricRow]:
    """Return the metrics in new events.

    Which steps are kept depends on their number alone, so a resumed run and an unbroken one hand on the same.
    """
    stride = max(1, math.ceil((total_steps or 0) / POINTS_PER_CURVE))
    rows: list[MetricRow] = []
    for event in events:
        moment = datetime.fromtimestamp(event["time"], UTC)
        if event["kind"] == "steps" and event["rank"] == 0:
            for step, loss, _ in event["rows"]:
                if step % stride == 0:
                    rows.append(MetricRow(key="loss", value=loss, step=step, time=moment))
        elif event["kind"] in {"epoch", "metrics"}:
            for key, value in event["values"].items():
                rows.append(MetricRow(key=key, value=value, step=event["step"], time=moment))
        elif event["kind"] == "checkpoint":
            blocked = event["blocked_seconds"]
            rows.append(MetricRow(key="checkpoint_blocked_seconds", value=blocked, step=event["step"], time=moment))
    return rows


def newer(rows: list[MetricRow], sent: dict[str, int]) -> list[MetricRow]:
    """Return the rows past the highest step sent for their key, and raise those marks.

    After a resume the steps since the checkpoint run again and give the same values; the first row of each step counts.
    So who reads the same events a second time, after a crash before the marks were stored, sends the very same rows.
    """
    before = dict(sent)
    fresh: dict[tuple[str, int], MetricRow] = {}
    for row in rows:
        if row.step > before.get(row.key, -1):
            fresh.setdefault((row.key, row.step), row)
            sent[row.key] = max(row.step, sent.get(row.key, -1))
    return list(fresh.values())
