"""Charts of a search: the best so far, the curves of trials, importance, and parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mlcycle_nb.notebook.charts import brief, styled
from mlcycle_nb.notebook.html import BLUE, GREEN, GREY, ORANGE, RED
from mlcycle_nb.training.search.records import SearchTrial, TrainingSearch, shown
from mlcycle_nb.training.search.space import SpaceEntry

CURVES = 60
"""Trials whose curves are drawn: the best one and the newest."""
_POINTS = 50
_COORDINATES = 200
_STATES = {"best": RED, "complete": BLUE, "pruned": ORANGE, "running": GREEN}


def state_of(search: TrainingSearch, trial: SearchTrial) -> str:
    """Return the word that charts colour a trial by."""
    if trial.number == search.best:
        return "best"
    return trial.phase if trial.phase in {"complete", "pruned"} else "running"


def best_chart(search: TrainingSearch, trials: Sequence[SearchTrial]) -> Any:
    """Return the value of each trial, and the best so far as a line of steps."""
    import altair as alt

    rows = [
        {"trial": trial.number, "value": brief(trial.value), "state": state_of(search, trial)}
        for trial in trials
        if trial.value is not None and math.isfinite(trial.value)
    ]
    chosen = max if search.direction == "maximize" else min
    line: list[dict[str, Any]] = []
    for trial in trials:
        if trial.phase == "complete" and trial.value is not None:
            best = chosen(line[-1]["value"], brief(trial.value)) if line else brief(trial.value)
            line.append({"trial": trial.number, "value": best})
    x = alt.X("trial:Q", title="trial", axis=alt.Axis(tickMinStep=1, format="d"))
    y = alt.Y("value:Q", title=search.metric, scale=alt.Scale(zero=False))
    steps = alt.Chart(alt.Data(values=line)).mark_line(interpolate="step-after", color=GREY).encode(x=x, y=y)
    points = (
        alt.Chart(alt.Data(values=rows))
        .mark_point(filled=True, opacity=0.9)
        .encode(
            x=x,
            y=y,
            color=_colour(alt),
            shape=_shape(alt),
            size=alt.condition("datum.state == 'best'", alt.value(140), alt.value(45)),
            tooltip=["trial:Q", "state:N", "value:Q"],
        )
    )
    return styled(alt.layer(steps, points).properties(width=420, height=180), title="best so far")


def curves_chart(
    search: TrainingSearch, trials: Sequence[SearchTrial], reports: Mapping[int, Sequence[float | None]]
) -> Any:
    """Return what each trial reported, pruned ones up to where they ended."""
    import altair as alt

    drawn = [trial for trial in trials if reports.get(trial.number)]
    newest = {trial.number for trial in drawn[-CURVES:]} | {search.best}
    rows: list[dict[str, Any]] = []
    for trial in drawn:
        if trial.number not in newest:
            continue
        points = list(enumerate(reports[trial.number], 1))
        stride = max(1, math.ceil(len(points) / _POINTS))
        kept = points[::stride] + ([points[-1]] if (len(points) - 1) % stride else [])
        state = state_of(search, trial)
        rows += [
            {"trial": trial.number, "report": report, "value": brief(value), "state": state}
            for report, value in kept
            if value is not None
        ]
    ends = list({row["trial"]: row for row in rows}.values())
    most = max((row["report"] for row in rows), default=1)
    ticks = list(range(1, most + 1, max(1, math.ceil(most / 8))))
    x = alt.X("report:Q", title="report", axis=alt.Axis(values=ticks, format="d"))
    y = alt.Y("value:Q", title=search.metric, scale=alt.Scale(zero=False))
    tooltip = ["trial:N", "state:N", "report:Q", "value:Q"]
    lines = (
        alt.Chart(alt.Data(values=rows))
        .mark_line()
        .encode(
            x=x,
            y=y,
            detail="trial:N",
            color=_colour(alt),
            opacity=alt.condition("datum.state == 'best'", alt.value(1.0), alt.value(0.5)),
            size=alt.condition("datum.state == 'best'", alt.value(3), alt.value(1.2)),
            tooltip=tooltip,
        )
    )
    marks = (
        alt.Chart(alt.Data(values=ends))
        .mark_point(filled=True, size=40, opacity=1)
        .encode(x=x, y=y, color=_colour(alt), shape=_shape(alt), tooltip=tooltip)
    )
    return styled(alt.layer(lines, marks).properties(width=420, height=180), title="trials")


def importance_chart(shares: Mapping[str, float]) -> Any:
    """Return the share of each hyperparameter as bars."""
    import altair as alt

    rows = [{"name": name, "share": brief(share), "text": f"{share:.0%}"} for name, share in shares.items()]
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("name:N", title=None, sort=alt.EncodingSortField("share", order="descending")),
        x=alt.X("share:Q", title="share of the variance", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
    )
    bars = base.mark_bar(color=BLUE)
    labels = base.mark_text(align="left", dx=4, fontSize=11).encode(text="text:N")
    height = min(180, 30 * len(rows) + 10)
    return styled(alt.layer(bars, labels).properties(width=420, height=height), title="importance (fANOVA)")


def coordinates_chart(search: TrainingSearch, trials: Sequence[SearchTrial]) -> Any:
    """Return completed trials as lines over one axis a hyperparameter, the metric last."""
    import altair as alt

    done = [trial for trial in trials if trial.phase == "complete" and trial.value is not None]
    shown_ones = done[-_COORDINATES:]
    if search.best is not None and all(trial.number != search.best for trial in shown_ones):
        shown_ones += [trial for trial in done if trial.number == search.best]
    values = [trial.value for trial in shown_ones if trial.value is not None]
    low, high = min(values), max(values)
    axes = [*(entry.name for entry in search.space), search.metric]
    rows, ticks = [], []
    for trial in shown_ones:
        for entry in search.space:
            where = _place(entry, trial.params[entry.name])
            rows.append(_row(search, trial, entry.name, where, shown(trial.params[entry.name])))
        end = 0.5 if low == high else (float(trial.value or 0.0) - low) / (high - low)
        rows.append(_row(search, trial, search.metric, end, f"{trial.value:.4g}"))
    for entry in search.space:
        ticks += [{"axis": entry.name, "y": where, "text": text} for where, text in _ticks(entry)]
    ticks += [{"axis": search.metric, "y": float(end), "text": f"{edge:.4g}"} for end, edge in ((0, low), (1, high))]
    x = alt.X("axis:N", title=None, sort=axes, axis=alt.Axis(labelAngle=0, domain=False, ticks=False, grid=True))
    y = alt.Y("y:Q", title=None, axis=None, scale=alt.Scale(domain=[-0.04, 1.04]))
    better_dark = "descending" if search.direction == "maximize" else "ascending"
    legend = alt.Legend(titleFontSize=10, titleLimit=100)
    colour = alt.Color(
        "value:Q", title=search.metric, scale=alt.Scale(scheme="viridis"), sort=better_dark, legend=legend
    )
    lines = (
        alt.Chart(alt.Data(values=rows))
        .mark_line()
        .encode(
            x=x,
            y=y,
            detail="trial:N",
            color=colour,
            opacity=alt.condition("datum.best", alt.value(1.0), alt.value(0.55)),
            size=alt.condition("datum.best", alt.value(4), alt.value(1.3)),
            tooltip=["trial:N", "axis:N", "text:N", "value:Q"],
        )
    )
    texts = alt.Chart(alt.Data(values=ticks)).encode(x=x, y=y, text="text:N")
    halo = texts.mark_text(align="left", dx=4, fontSize=10, stroke="white", strokeWidth=3)
    marks = texts.mark_text(align="left", dx=4, fontSize=10, color="#333")
    width = max(420, 90 * len(axes))
    return styled(alt.layer(lines, halo, marks).properties(width=width, height=200), title="parallel coordinates")


def _row(search: TrainingSearch, trial: SearchTrial, axis: str, where: float, text: str) -> dict[str, Any]:
    value = brief(float(trial.value or 0.0))
    best = trial.number == search.best
    return {"trial": trial.number, "axis": axis, "y": brief(where), "text": text, "value": value, "best": best}


def _place(entry: SpaceEntry, value: Any) -> float:
    """Return where a value lies on its axis, from 0 to 1."""
    if entry.kind == "choice":
        return entry.choices.index(value) / (len(entry.choices) - 1)
    if entry.log:
        return (math.log(value) - math.log(entry.low)) / (math.log(entry.high) - math.log(entry.low))
    return (float(value) - entry.low) / (entry.high - entry.low)


def _ticks(entry: SpaceEntry) -> list[tuple[float, str]]:
    if entry.kind == "choice" and len(entry.choices) <= 8:
        return [(_place(entry, value), shown(value)) for value in entry.choices]
    if entry.kind == "choice":
        return [(0.0, shown(entry.choices[0])), (1.0, shown(entry.choices[-1]))]
    ends = (int(entry.low), int(entry.high)) if entry.kind == "int" else (entry.low, entry.high)
    return [(0.0, shown(ends[0])), (1.0, shown(ends[1]))]


def _colour(alt: Any) -> Any:
    scale = alt.Scale(domain=list(_STATES), range=list(_STATES.values()))
    return alt.Color("state:N", title=None, scale=scale, legend=alt.Legend(orient="top"))


def _shape(alt: Any) -> Any:
    shapes = ["diamond", "circle", "triangle-down", "square"]  # colour alone says nothing to some
    return alt.Shape("state:N", title=None, scale=alt.Scale(domain=list(_STATES), range=shapes))
