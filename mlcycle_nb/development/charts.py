"""Charts of runs: metrics over steps, and parameters beside the metric they led to."""

from __future__ import annotations

import math
from typing import Any

from mlcycle_nb.development.compare import RunComparison
from mlcycle_nb.notebook.charts import PALETTE, WIDTH, styled

NAMED_RUNS = 7
"""Runs that are told apart by colour; more of them are coloured by the last metric."""


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
    many = len(comparison.runs) > NAMED_RUNS
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_line(point=len(values) <= 60, opacity=0.5 if many else 1.0)
        .encode(
            x=alt.X("step:Q", title="step", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("value:Q", title=metric, scale=alt.Scale(zero=False)),
            color=alt.value(PALETTE[0]) if many else alt.Color("run:N", title="run", sort=None),
            detail="run:N",
            tooltip=["run:N", "step:Q", "value:Q"],
        )
    )
    return styled(chart, title=metric)


def parallel_coordinates(comparison: RunComparison) -> Any | None:
    """Return parameters that differ and the last metrics as parallel axes, a line for each run; None without any.

    Each axis goes from the least to the greatest value found, which stand at its ends; words are spread evenly in
    their order. Many runs are coloured by the last axis instead of one by one.
    """
    import altair as alt

    labels = comparison.labels()
    values: list[dict[str, Any]] = []
    ends: list[dict[str, Any]] = []
    coloured: dict[str, float] = {}
    axes = (*comparison.differing, *comparison.metrics)
    for axis in axes:
        metric = axis in comparison.metrics
        found = {run.id: run.metrics.get(axis) if metric else run.parameters.get(axis) for run in comparison.runs}
        places = _places(found)
        values += [
            {"run": labels[run_id], "axis": axis, "place": place, "value": _shown(found[run_id])}
            for run_id, place in places.items()
        ]
        ends += [
            {"axis": axis, "place": place, "value": _shown(found[run_id])}
            for place, run_id in {place: run_id for run_id, place in places.items()}.items()
            if place in {0.0, 0.5, 1.0} and (place != 0.5 or len(set(places.values())) == 1)
        ]
        if axis == axes[-1]:
            coloured = {labels[run_id]: place for run_id, place in places.items()}
    if not values:
        return None
    many = len(comparison.runs) > NAMED_RUNS
    for value in values:
        value["last"] = coloured.get(value["run"])
    colour: Any = alt.Color("run:N", title="run", sort=None)
    if many:
        scale = alt.Scale(range=[PALETTE[5], PALETTE[3]], domain=[0, 1], interpolate="lab")
        legend = alt.Legend(values=[0, 1], labelExpr="datum.value < 0.5 ? 'least' : 'greatest'")
        colour = alt.Color("last:Q", title=axes[-1], scale=scale, legend=legend)
    x = alt.X("axis:N", title=None, sort=list(axes), axis=alt.Axis(labelAngle=-30, grid=True))
    y = alt.Y("place:Q", title=None, axis=None, scale=alt.Scale(domain=[-0.12, 1.12]))
    lines = (
        alt.Chart(alt.Data(values=values))
        .mark_line(point=True, opacity=0.6 if many else 1.0)
        .encode(x=x, y=y, color=colour, detail="run:N", tooltip=["run:N", "axis:N", "value:N"])
    )
    marks = (
        alt.Chart(alt.Data(values=ends))
        .mark_text(fontSize=10, dy=alt.expr("datum.place < 0.5 ? 11 : -9"))
        .encode(x=x, y=y, text="value:N")
    )
    width = max(WIDTH, 70 * len(axes))
    return styled(alt.layer(lines, marks), title="parameters and metrics", width=width)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:20]


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
