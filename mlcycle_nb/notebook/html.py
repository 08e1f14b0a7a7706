"""Pieces of HTML for static faces: one palette, one set of marks, all text escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape as _escape
from typing import Any

from mlcycle_nb.errors import inert

# Okabe and Ito's palette: told apart with any of the common colour deficiencies, on light and dark ground.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#7f7f7f",
)
# For text: as far from the ground as the palette is not, on white here, on a dark theme as the live panel says.
_INKS = {
    BLUE: "var(--mlcycle-blue,#0072B2)",
    ORANGE: "var(--mlcycle-orange,#8F6000)",
    GREEN: "var(--mlcycle-green,#00734F)",
    RED: "var(--mlcycle-red,#B84A00)",
    PURPLE: "var(--mlcycle-purple,#A3487E)",
    GREY: "var(--mlcycle-grey,#5F5F5F)",
}
MARKS = {
    "passed": ("✓", GREEN),
    "failed": ("✗", RED),
    "inconclusive": ("?", ORANGE),
    "error": ("!", RED),
    "skipped": ("–", GREY),
    "running": ("▶", BLUE),
    "waiting": ("…", GREY),
    "paused": ("❚❚", ORANGE),
    "succeeded": ("✓", GREEN),
    "completed": ("✓", GREEN),
    "finished": ("✓", GREEN),
    "compared": ("✓", GREEN),
    "promoted": ("✓", GREEN),
    "healthy": ("✓", GREEN),
    "no traffic": ("…", GREY),
    "no data": ("!", ORANGE),
    "monitor dead": ("✗", RED),
    "drift": ("!", RED),
    "no drift": ("✓", GREEN),
    "stable": ("✓", GREEN),
    "insufficient": ("?", ORANGE),
    "pending": ("…", ORANGE),
    "firing": ("!", RED),
    "acknowledged": ("✓", ORANGE),
    "resolved": ("✓", GREEN),
    "ready": ("✓", GREEN),
    "draining": ("…", ORANGE),
    "rolled_back": ("↩", RED),
    "aborted": ("✗", RED),
    "stopped": ("■", GREY),
    "stopping": ("■", ORANGE),
    "recovering": ("↻", ORANGE),
    "starting": ("…", GREY),
    "silent": ("!", RED),
    "lost": ("✗", RED),
    "verified": ("✓", GREEN),
    "damaged": ("✗", RED),
    "ended": ("–", GREY),
}
_CELL = "padding:2px 12px 2px 0;text-align:left;vertical-align:top"


def escape(text: object) -> str:
    """Return `text` inert in HTML."""
    return _escape(str(text), quote=True)


def ink(colour: str) -> str:
    """Return what a style says for text in a colour of the palette: readable on light and on dark ground."""
    return _INKS.get(colour, colour)


class Markup(str):
    """Text that is HTML already, so `table` does not escape it again."""

    __slots__ = ()


class Text(str):
    """Text that shows itself as it is, not quoted."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self).rstrip("\n")

    def _repr_html_(self) -> str:
        return Markup(f'<pre style="max-height:30em;overflow:auto">{escape(repr(self))}</pre>')


class Printed(Text):
    """What a program printed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return super().__repr__() or "nothing was printed"


def badge(status: object) -> Markup:
    """Return a status word with its mark and colour; the word is always there, colour alone says nothing."""
    word = str(status)
    mark, colour = MARKS.get(word, ("•", GREY))
    return Markup(
        f'<span style="color:{ink(colour)};font-weight:600;white-space:nowrap">'
        f'<span aria-hidden="true">{mark}</span> {escape(word)}</span>'
    )


def heading(text: object, status: object | None = None) -> Markup:
    """Return a panel's title line."""
    tail = "" if status is None else f" &nbsp;{badge(status)}"
    return Markup(f'<div style="font-size:1.1em;font-weight:600;margin:4px 0">{escape(text)}{tail}</div>')


def paragraph(text: object) -> Markup:
    """Return a line of plain text."""
    return Markup(f'<div style="margin:2px 0">{escape(text)}</div>')


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str = "") -> Markup:
    """Return a table; cells are escaped unless they are `Markup`."""
    head = "".join(f'<th scope="col" style="{_CELL};border-bottom:1px solid {GREY}">{escape(h)}</th>' for h in headers)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{c if isinstance(c, Markup) else escape(c)}</td>' for c in row) + "</tr>"
        for row in rows
    )
    title = f'<caption style="text-align:left;font-weight:600">{escape(caption)}</caption>' if caption else ""
    return Markup(
        f'<table style="border-collapse:collapse;font-size:0.95em">{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def figure(value: float | None, unit: str = "", low: float | None = None, high: float | None = None) -> str:
    """Return a number with its unit and interval as text: ``0.934 [0.921, 0.946]``; absence is ``n/a``."""
    if value is None or not math.isfinite(value):
        return "n/a"
    text = number(value)
    if low is not None and high is not None:
        text += f" [{number(low)}, {number(high)}]"
    return f"{text} {unit}".rstrip()


def span(seconds: float) -> str:
    """Return a length of time in its two largest units: ``42 s``, ``3 min 5 s``, ``2 h 10 min``, ``3 d 4 h``."""
    left = max(0, round(seconds))
    sizes = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    found: list[tuple[int, str]] = []
    for unit, size in sizes:
        if left >= size or (found and len(found) < 2) or unit == "s":
            found.append((left // size, unit))
        left %= size
        if len(found) == 2:
            break
    return " ".join(f"{count} {unit}" for count, unit in found if count or len(found) == 1) or "0 s"


def number(value: float) -> str:
    """Return a number with three significant digits, whole numbers whole."""
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.3g}"


def text_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table in plain text with aligned columns."""
    lines = [[inert(str(c)) for c in row] for row in (headers, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def svg_image(svg: str, *, label: str) -> Markup:
    """Return an SVG as an image that viewers without scripts show."""
    encoded = base64.b64encode(svg.encode()).decode()
    return Markup(f'<img alt="{escape(label)}" style="max-width:100%" src="data:image/svg+xml;base64,{encoded}"/>')
