"""One look for all charts, and their static form; no chart ever asks a network for anything."""

from __future__ import annotations

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
        .configure_legend(labelFontSize=11, titleFontSize=11)
    )


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
