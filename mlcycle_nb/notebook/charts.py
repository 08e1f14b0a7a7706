"""One look for all charts, and their static form; no chart ever asks a network for anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlcycle_nb.notebook.html import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, Markup, svg_image

PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY)
WIDTH, HEIGHT = 420, 180


def styled(chart: Any, *, title: str = "", width: int = WIDTH, height: int = HEIGHT) -> Any:
    """Return an Altair chart with the common size, palette and quiet axes."""
    if title:
        chart = chart.properties(title=title)
    if hasattr(chart, "width"):
        chart = chart.properties(width=width, height=height)
    return (
        chart.configure_view(strokeWidth=0)
        .configure_range(category=list(PALETTE))
        .configure_axis(gridOpacity=0.4, labelFontSize=11, titleFontSize=11)
        .configure_title(fontSize=13, anchor="start")
        .configure_legend(labelFontSize=11, titleFontSize=11, labelLimit=260)
    )


def time_axis(title: str | None = None) -> Any:
    """Return the x axis of a column ``time``, on a clock of 24 hours: Vega's own says ``07:29`` at night."""
    import altair as alt

    named = {"milliseconds": "%H:%M:%S.%L", "seconds": "%H:%M:%S", "minutes": "%H:%M", "hours": "%H:%M"}
    return alt.X("time:T", title=title, axis=alt.Axis(format=named))


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart: its points, and how it is told from the others, by colour and by dashes.

    Parameters
    ----------
    points : sequence of (step, value)
        Values that are not finite are left out: panels name them in words.
    best : (step, value), optional
        The point that is marked.
    """

    points: Sequence[tuple[float, float]]
    colour: str = BLUE
    dashed: bool = False
    best: tuple[float, float] | None = None


def line_chart(
    lines: Mapping[str, Line],
    *,
    title: str,
    y_title: str,
    x_title: str = "step",
    breaks: Sequence[float] = (),
    best_is_low: bool = True,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> Any:
    """Return lines over steps, with a legend also for a single one.

    The specification stays the same while points come, so that a live panel sends only these.

    Parameters
    ----------
    lines : mapping of str to Line
        By the names that the legend shows.
    y_title, x_title : str
        What the axes measure, with the unit where there is one.
    breaks : sequence of float
        Places at which the work was taken up again, drawn as thin vertical lines.
    best_is_low : bool
        Whether the best points lie at the bottom: their labels go where no line is.
    """
    import altair as alt

    names = list(lines)
    rows = [
        {"x": step, "y": brief(value), "line": name}
        for name, line in lines.items()
        for step, value in line.points
        if math.isfinite(value)
    ]
    x = alt.X("x:Q", title=x_title, axis=alt.Axis(tickMinStep=1, format="~s"))
    y = alt.Y("y:Q", title=y_title, scale=alt.Scale(zero=False, padding=16), axis=alt.Axis(format="~g"))
    colour = alt.Color(
        "line:N",
        title=None,
        scale=alt.Scale(domain=names, range=[line.colour for line in lines.values()]),
        legend=alt.Legend(orient="top", symbolType="stroke", symbolStrokeWidth=3, columnPadding=18),
    )
    dashes = [[5, 3] if line.dashed else [1, 0] for line in lines.values()]
    dash = alt.StrokeDash("line:N", scale=alt.Scale(domain=names, range=dashes), legend=None)
    tooltip = [
        alt.Tooltip("line:N", title="line"),
        alt.Tooltip("x:Q", title=x_title, format=","),
        alt.Tooltip("y:Q", title=y_title, format=".4g"),
    ]
    drawn = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point={"size": 24} if len(rows) <= 40 else False)
        .encode(x=x, y=y, color=colour, strokeDash=dash, tooltip=tooltip)
    )
    marked = [
        {"x": line.best[0], "y": brief(line.best[1]), "line": name, "label": f"best {line.best[1]:.4g}"}
        for name, line in lines.items()
        if line.best is not None
    ]
    best = alt.Chart().encode(x="x:Q", y="y:Q", color=colour, tooltip=tooltip)
    points = best.mark_point(shape="diamond", size=110, filled=True, opacity=1)
    labels = best.mark_text(dy=15 if best_is_low else -14, align="right", dx=8, fontSize=11, fontWeight=600).encode(
        text="label:N"
    )
    rules = (
        alt.Chart(alt.Data(values=[{"x": step} for step in breaks]))
        .mark_rule(strokeDash=[2, 3], color=GREY, strokeWidth=1.5)
        .encode(x="x:Q", tooltip=[alt.Tooltip("x:Q", title="taken up again after step")])
    )
    bests = alt.layer(points, labels, data=alt.Data(values=marked))
    layered = alt.layer(rules, drawn, bests).properties(width=width, height=height)
    return styled(layered, title=title, width=width, height=height)


def brief(value: float) -> float:
    """Return a number with five significant digits: more cannot be seen in a chart, and would have to be sent."""
    return float(f"{value:.5g}")


def spec(chart: Any) -> dict[str, Any]:
    """Return the Vega-Lite specification of an Altair chart."""
    return dict(chart.to_dict())


def to_svg(chart: Any) -> str:
    """Return the chart as SVG text, drawn in this process."""
    import io

    stream = io.StringIO()
    chart.save(stream, format="svg")
    return stream.getvalue()


def to_image(chart: Any) -> Markup:
    """Return the chart as an HTML image with its title as the text for those who cannot see it."""
    title = spec(chart).get("title", "chart")
    if isinstance(title, dict):
        title = title.get("text", "chart")
    return svg_image(to_svg(chart), label=str(title))
