"""Charts of a validation: each gate's interval against its bound, and the groups of fairness checks."""

from __future__ import annotations

from typing import Any

from mlcycle_nb.notebook.charts import styled
from mlcycle_nb.notebook.html import MARKS
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.validation.records import GateResult, Validation


def charts(record: Validation) -> list[Any]:
    """Return one interval chart for each unit, and one bar chart for each fairness gate with groups."""
    measured = [result for result in record.results if None not in (result.value, result.low, result.high)]
    units = list(dict.fromkeys(result.unit for result in measured))
    drawn = [interval_chart([r for r in measured if r.unit == unit], unit, record) for unit in units]
    return drawn + [group_chart(result) for result in record.results if result.detail.get("groups")]


def interval_chart(results: list[GateResult], unit: str, record: Validation) -> Any:
    """Return the intervals of `results` with a tick at each bound."""
    import altair as alt

    bounds = {id(result): _bound(result) for result in results}
    rows = [
        {
            "gate": f"{result.check} {result.bound}",
            "value": result.value,
            "low": result.low,
            "high": result.high,
            "bound": bounds[id(result)],
            "outcome": str(result.outcome),
        }
        for result in results
    ]
    outcomes = [str(outcome) for outcome in Outcome]
    colour = alt.Color(
        "outcome:N",
        title="outcome",
        scale=alt.Scale(domain=outcomes, range=[MARKS[outcome][1] for outcome in outcomes]),
    )
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("gate:N", title=None, sort=None, axis=alt.Axis(labelLimit=320))
    )
    axis = alt.X("low:Q", title=unit or "score", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    intervals = base.mark_rule(strokeWidth=3).encode(x=axis, x2="high:Q", color=colour)
    values = base.mark_point(filled=True, size=60).encode(x="value:Q", color=colour)
    ticks = base.mark_tick(color="black", thickness=2, size=18).encode(x="bound:Q")
    title = f"{record.reference}: intervals against bounds" + (f" ({unit})" if unit else "")
    return styled(alt.layer(intervals, values, ticks), title=title, height=24 * len(rows) + 30)


def group_chart(result: GateResult) -> Any:
    """Return the share of positive answers of each group."""
    import altair as alt

    rows = [
        {"group": f"{name} (n={g['n']})", "rate": g["positive_rate"]} for name, g in result.detail["groups"].items()
    ]
    bars = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            y=alt.Y("group:N", title=result.detail.get("grouping")),
            x=alt.X("rate:Q", title="share of positive answers", scale=alt.Scale(domain=[0, 1])),
        )
    )
    return styled(bars, title=result.check, height=24 * len(rows) + 20)


def _bound(result: GateResult) -> float | None:
    try:
        return float(result.bound.split(" and ")[0].split()[-1])
    except (ValueError, IndexError):
        return None
