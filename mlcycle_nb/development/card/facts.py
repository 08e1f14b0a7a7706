"""One fact of a model card: a value, its interval, and the record that it was read from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

SECTIONS = (
    "Version",
    "Owners",
    "Training data",
    "Training run",
    "Reproducibility",
    "Validation",
    "Fairness",
    "Known limits",
    "Deployment",
)
"""Sections of the evidence, in their order; a fact belongs to one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something that was recorded.

    Attributes
    ----------
    key : str
        Names it for ever: the same fact has the same key in every card, such as ``run/metrics.loss``.
    source : str
        The record that it was read from, for people.
    low, high : float, optional
        Confidence interval of a number.
    """

    section: str
    key: str
    name: str
    value: str | int | float | None
    source: str
    low: float | None = None
    high: float | None = None
    unit: str = ""

    @property
    def text(self) -> str:
        """The value as it stands in a card."""
        if self.value is None:
            return "not recorded"
        if isinstance(self.value, str):
            return " ".join(self.value.split()) or "none"
        text = number_text(self.value)
        if self.low is not None and self.high is not None:
            text += f" [{number_text(self.low)}, {number_text(self.high)}]"
        return f"{text} {self.unit}".rstrip()

    @property
    def cells(self) -> tuple[str, str, str]:
        """Name, value and source as they stand in a card."""
        return " ".join(self.name.split()), self.text, " ".join(self.source.split())


def number_text(value: float) -> str:
    """Return a number with six significant digits; whole ones whole."""
    if isinstance(value, int) or (math.isfinite(value) and value.is_integer() and abs(value) < 1e15):
        return str(int(value))
    return f"{value:.6g}"


def in_order(facts: Iterable[Fact]) -> list[Fact]:
    """Return facts by section; within one as they were told. Of two with one key the first counts."""
    first: dict[str, Fact] = {}
    for fact in facts:
        first.setdefault(fact.key, fact)
    return sorted(first.values(), key=lambda fact: SECTIONS.index(fact.section))
