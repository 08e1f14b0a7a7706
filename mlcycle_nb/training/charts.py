"""Training curves: points in, Altair charts out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mlcycle_nb.notebook.charts import styled

Curve = Sequence[tuple[int, float]]


def curve_chart(curves: Mapping[str, Curve], *, title: str, y_title: str, marks: Sequence[int] = ()) -> Any:
    """Return curves over steps, one colour a name.

    Parameters
    ----------
    curves : mapping of str to sequence of (int, float)
        Values that are not finite are left out: the panel names them in words.
    marks : sequence of int
        Steps at which training was taken up again, drawn as thin vertical lines.
    """
    import altair as alt

    rows = [
        {"step": step, "value": round(value, 6), "curve": name}
        for name, points in curves.items()
        for step, value in points
        if math.isfinite(value)
    ]
    encoding = {
        "x": alt.X("step:Q", title="step", axis=alt.Axis(tickMinStep=1)),
        "y": alt.Y("value:Q", title=y_title, scale=alt.Scale(zero=False)),
    }
    if len(curves) > 1:
        encoding["color"] = alt.Color("curve:N", title=None, sort=list(curves))
    lines = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=len(rows) <= 60)
        .encode(**encoding, tooltip=["curve:N", "step:Q", alt.Tooltip("value:Q", format=".4g")])
    )
    if not marks:
        return styled(lines, title=title)
    rules = (
        alt.Chart(alt.Data(values=[{"step": step} for step in marks]))
        .mark_rule(strokeDash=[4, 3], color="#7f7f7f")
        .encode(x="step:Q", tooltip=[alt.Tooltip("step:Q", title="taken up again after step")])
    )
    layered = alt.layer(rules, lines).properties(width=420, height=180)
    return styled(layered, title=title)
