"""Pieces of HTML and text tables: what users named stays text."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from mlcycle_nb.monitoring.health import Health
from mlcycle_nb.notebook.html import (
    MARKS,
    Markup,
    badge,
    escape,
    figure,
    heading,
    number,
    paragraph,
    svg_image,
    table,
    text_table,
)
from mlcycle_nb.outcomes import Outcome

HOSTILE = "</td></script><img src=x onerror=alert(1)>\"'&"


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.data: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)

    def handle_data(self, data: str) -> None:
        self.data.append(data)


@pytest.mark.parametrize(
    "html",
    [
        table([HOSTILE], [[HOSTILE]], caption=HOSTILE),
        heading(HOSTILE, HOSTILE),
        paragraph(HOSTILE),
        badge(HOSTILE),
        svg_image("<svg/>", label=HOSTILE),
        escape(HOSTILE),
    ],
)
def test_hostile_text_is_inert(html: str) -> None:
    """It comes out as text, or as an attribute's value, and opens no tag."""
    tags = Tags(html)

    assert "script" not in tags.seen
    assert tags.seen.count("img") == html.startswith('<img alt="')
    assert "onerror=alert(1)>" not in html


def test_markup_is_not_escaped_again() -> None:
    """A badge in a table stays a badge."""
    shown = table(["state"], [[badge("passed")], ["<b>"]])

    assert badge("passed") in shown
    assert "&lt;b&gt;" in shown
    assert isinstance(shown, Markup)


FINDINGS = ("drift", "stable", "insufficient")
ALERTS = ("pending", "firing", "acknowledged", "resolved")


@pytest.mark.parametrize("outcome", [*Outcome, *Health, *FINDINGS, *ALERTS])
def test_every_outcome_has_a_mark_and_its_word(outcome: str) -> None:
    """Colour alone says nothing to many."""
    assert f"</span> {outcome}</span>" in badge(outcome)
    assert str(outcome) in MARKS


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0.9344,), "0.934"),
        ((12.0,), "12"),
        ((1234567,), "1,234,567"),
        ((0.9344, "", 0.921, 0.946), "0.934 [0.921, 0.946]"),
        ((3.25, "ms"), "3.25 ms"),
        ((None, "ms"), "n/a"),
        ((float("nan"),), "n/a"),
        ((float("inf"), "", 0.0, 1.0), "n/a"),
        ((0.5, "", None, 1.0), "0.5"),
        ((1e20,), "1e+20"),
    ],
)
def test_figures(arguments: tuple[float, str, float, float], text: str) -> None:
    """Three significant digits, whole numbers whole, and no number where there is none."""
    assert figure(*arguments) == text


def test_numbers() -> None:
    """Also those that are none."""
    assert [number(value) for value in (0.0, -3.0, 0.00012345, float("nan"))] == ["0", "-3", "0.000123", "nan"]


def test_text_tables_are_aligned_and_inert() -> None:
    """Columns line up; a line break or an escape sequence in a cell is shown, not obeyed."""
    shown = text_table(("id", "reason"), [("a", "x\ny"), ("long", "\x1b[31mred\u202e")])

    assert shown.splitlines() == ["id    reason", "a     x<U+000A>y", "long  <U+001B>[31mred<U+202E>"]
