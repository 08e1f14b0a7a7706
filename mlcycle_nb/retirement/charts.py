"""Charts of a retirement: the ramp as planned and as done, and who still calls."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from mlcycle_nb.retirement.records import WHOLE, ConsumerRecord, Retirement


def ramp(record: Retirement, now: datetime) -> Any:
    """Return the share of its own address that the version keeps, over time."""
    import altair as alt

    from mlcycle_nb.notebook.charts import styled, time_axis

    rows = [{"line": "planned", "time": step.due_at.isoformat(), "share": step.share / 100} for step in record.steps]
    done = [step for step in record.steps if step.taken_at is not None]
    rows += [
        {"line": "done", "time": step.taken_at.isoformat(), "share": step.share / 100}
        for step in done
        if step.taken_at is not None
    ]
    if done:
        last = max([now, *(step.taken_at for step in done if step.taken_at is not None)])
        rows.append({"line": "done", "time": last.isoformat(), "share": done[-1].share / 100})
    elif record.steps:
        rows.append({"line": "done", "time": record.steps[0].due_at.isoformat(), "share": WHOLE / 100})
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(interpolate="step-after", point=True)
        .encode(
            x=time_axis("time (UTC)"),
            y=alt.Y("share:Q", title="% of its own address", scale=alt.Scale(domain=[0, 100])),
            color=alt.Color("line:N", title=None),
            strokeDash=alt.StrokeDash("line:N", legend=None),
            tooltip=["line:N", "time:T", "share:Q"],
        )
    )
    return styled(chart, title=f"{record.reference} hands over to {record.replacement or 'nobody'}")


def callers(consumers: Sequence[ConsumerRecord]) -> Any:
    """Return requests by consumer, coloured by what they answered."""
    import altair as alt

    from mlcycle_nb.notebook.charts import styled

    rows = [{"consumer": one.name, "requests": one.pinned, "answer": one.state} for one in consumers if one.pinned]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            x=alt.X("requests:Q", title="requests to its own address"),
            y=alt.Y("consumer:N", title=None, sort="-x"),
            color=alt.Color("answer:N", title=None),
            tooltip=["consumer:N", "requests:Q", "answer:N"],
        )
    )
    return styled(chart, title="who depends on it", height=30 + 24 * max(1, len(rows)))
