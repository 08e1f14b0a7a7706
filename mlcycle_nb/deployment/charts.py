"""Rollout measurements -> Altair charts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from mlcycle_nb.deployment.records import Rollout
from mlcycle_nb.notebook.charts import styled, time_axis

POINTS_SHOWN = 240


def _thin(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return at most `POINTS_SHOWN` of the rows, the newest among them: a long rollout must not grow its chart."""
    step = -(-len(rows) // POINTS_SHOWN) or 1
    return rows[::-1][::step][::-1]


def weight_rows(rollout: Rollout, until: datetime) -> list[dict[str, Any]]:
    """Return the planned weight of the target over time, in percent, as the steps of a staircase."""
    rows = [{"time": rollout.created_at.isoformat(), "weight": 0.0}]
    rows += [
        {"time": event.time.isoformat(), "weight": event.weight / 100}
        for event in rollout.history
        if event.weight is not None
    ]
    return [*rows, {"time": until.isoformat(), "weight": rows[-1]["weight"]}]


def share_rows(points: Iterable[Mapping[str, Any]], target: int) -> list[dict[str, Any]]:
    """Return the target's real share of the requests, in percent, for each measurement time that had any."""
    by_time: dict[str, dict[int, int]] = {}
    for point in points:
        second = point["time"].replace(microsecond=0).isoformat()
        one = by_time.setdefault(second, {})
        one[point["version"]] = one.get(point["version"], 0) + int(point["requests"])
    return [
        {"time": second, "weight": round(100 * counts.get(target, 0) / sum(counts.values()), 2)}
        for second, counts in sorted(by_time.items())
        if sum(counts.values())
    ]


def weight_chart(rollout: Rollout, points: Sequence[Mapping[str, Any]], until: datetime) -> Any:
    """Return planned weight (line) and real share (dots) of the new version over time."""
    import altair as alt

    y = alt.Y("weight:Q", title="% of requests", scale=alt.Scale(domain=[0, 100]))
    planned = alt.Chart(alt.Data(values=weight_rows(rollout, until))).mark_line(interpolate="step-after")
    seen = alt.Chart(alt.Data(values=list(_thin(share_rows(points, rollout.target))))).mark_point(size=14, opacity=0.6)
    time = time_axis()
    return styled(
        alt.layer(planned.encode(x=time, y=y), seen.encode(x=time, y=y)),
        title=f"requests to {rollout.reference}: planned (line), counted (dots)",
    )


def series_chart(
    points: Sequence[Mapping[str, Any]], field: str, *, title: str, y_title: str, at_least: float | None = None
) -> Any:
    """Return one line a version of a field of the traffic measurements; the axis reaches up to `at_least`."""
    import altair as alt

    rows = [
        {"time": point["time"].isoformat(), "version": f"version {point['version']}", "value": point[field]}
        for point in points
        if point.get(field) is not None
    ]
    chart = alt.Chart(alt.Data(values=list(_thin(rows)))).mark_line(point=alt.OverlayMarkDef(size=12))
    chart = chart.encode(
        x=time_axis(),
        y=alt.Y("value:Q", title=y_title, scale=alt.Scale(zero=True)),
        color=alt.Color("version:N", title=None),
        # Shape too: colour alone says nothing to some.
        strokeDash=alt.StrokeDash("version:N", title=None),
    )
    if at_least is None:
        return styled(chart, title=title)
    # Nothing but zeros has no scale, and would be drawn across the middle.
    unseen = alt.Chart(alt.Data(values=[{"least": at_least}])).mark_rule(opacity=0)
    return styled(alt.layer(chart, unseen.encode(y=alt.Y("least:Q", title=y_title))), title=title)


def error_points(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the traffic measurements with the share of errors, in percent."""
    return [
        {**point, "error_percent": round(100 * int(point["errors"]) / int(point["requests"]), 3)}
        for point in points
        if int(point["requests"])
    ]


def verdict_chart(rows: Sequence[Mapping[str, Any]], name: str, bound: float, *, title: str) -> Any:
    """Return an estimate with the band that holds at all times, and the bound that is tolerated."""
    import altair as alt

    values = [
        {"time": row["time"].isoformat(), "estimate": row["estimate"], "low": row["low"], "high": row["high"]}
        for row in rows
        if row["name"] == name and row["estimate"] is not None
    ]
    base = alt.Chart(alt.Data(values=list(_thin(values)))).encode(x=time_axis())
    band = base.mark_area(opacity=0.25).encode(y=alt.Y("low:Q", title="share of requests"), y2="high:Q")
    line = base.mark_line(point=alt.OverlayMarkDef(size=12)).encode(y="estimate:Q")
    rule = alt.Chart(alt.Data(values=[{"bound": bound}])).mark_rule(strokeDash=[4, 4]).encode(y="bound:Q")
    return styled(alt.layer(band, line, rule), title=title)
