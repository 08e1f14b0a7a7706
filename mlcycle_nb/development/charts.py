"""Charts of runs: metrics over steps, and parameters beside the metric they led to."""

from __future__ import annotations

import math
from typing import Any

from mlcycle_nb.development.compare import RunComparison
from mlcycle_nb.notebook.charts import styled


def metric_curves(comparison: RunComparison, metric: str) -> Any:
    """Return one metric over steps, a line for each run."""
    import altair as alt

    labels = comparison.labels()
    values = [
        {"run": labels[run.id], "step": row.step, "value": row.value}
        for run in comparison.runs
        for row in comparison.curves.get((run.id, metric), ())
        if math.isfinite(row.value)
    ]
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_line(point=len(values) <= 60)
        .encode(
            x=alt.X("step:Q", title="step"),
            y=alt.Y("value:Q", title=metric, scale=alt.Scale(zero=False)),
            color=alt.Color("run:N", title="run"),
        )
    )
    return styled(chart, title=metric)


def parallel_coordinates(comparison: RunComparison) -> Any | None:
    """Return parameters that differ and the last metrics as parallel axes, a line for each run; None without any.

    Each axis goes from the least to the greatest value found; words are spread evenly in their order.
    """
    import altair as alt

    labels = comparison.labels()
    values = []
    for axis in (*comparison.differing, *comparison.metrics):
        metric = axis in comparison.metrics
        found = {run.id: run.metrics.get(axis) if metric else run.parameters.get(axis) for run in comparison.runs}
        for run_id, place in _places(found).items():
            values.append({"run": labels[run_id], "axis": axis, "place": place, "value": str(found[run_id])})
    if not values:
        return None
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_line(point=True)
        .encode(
            x=alt.X("axis:N", title=None, sort=None, axis=alt.Axis(labelAngle=-30)),
            y=alt.Y("place:Q", title="least to greatest", axis=alt.Axis(labels=False, ticks=False)),
            color=alt.Color("run:N", title="run"),
            detail="run:N",
            tooltip=["run:N", "axis:N", "value:N"],
        )
    )
    return styled(chart, title="parameters and metrics")


def _places(found: dict[str, Any]) -> dict[str, float]:
    """Return run id -> place in [0, 1] on an axis; a run without a finite value has none."""
    numbers: dict[str, float] = {}
    for run_id, value in found.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            numbers = {}
            break
        if math.isfinite(number):
            numbers[run_id] = number
    if not numbers:
        words = sorted({str(value) for value in found.values() if value is not None})
        numbers = {run_id: float(words.index(str(value))) for run_id, value in found.items() if value is not None}
    if not numbers:
        return {}
    low, high = min(numbers.values()), max(numbers.values())
    return {run_id: 0.5 if high == low else (number - low) / (high - low) for run_id, number in numbers.items()}
