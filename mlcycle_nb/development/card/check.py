"""Whether each number of a card is the one that was recorded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mlcycle_nb.development.card.document import key_text
from mlcycle_nb.development.card.facts import Fact
from mlcycle_nb.development.card.reading import ReadCard, Row
from mlcycle_nb.notebook.html import badge, heading, table, text_table
from mlcycle_nb.outcomes import Outcome

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)
_CLAIM = (
    r"(?<![\w./]){name}(?![\w/])[\s(:]*(?:is|was|of|at|about|equals|[=≈~|])?\s*"
    r"(?P<number>[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)\s*(?P<percent>%)?"
)
_HEADERS = ("line", "what", "the card says", "recorded", "source")


@dataclass(frozen=True, slots=True)
class CardProblem:
    """One place where a card and the records disagree."""

    line: int  # 0 when it stands nowhere in the card
    what: str
    says: str
    recorded: str
    source: str = ""

    def row(self) -> tuple[str, ...]:
        """Return it as cells of a table."""
        return str(self.line or "-"), self.what, self.says, self.recorded, self.source

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        source = f" ({self.source})" if self.source else ""
        return f"{place}{self.what} says {self.says}, recorded is {self.recorded}{source}"


@dataclass(frozen=True, slots=True, repr=False)
class CardCheck:
    """What a check of a card found; only a card without any problem has passed."""

    reference: str
    rows: int
    problems: tuple[CardProblem, ...]

    @property
    def outcome(self) -> Outcome:
        """The verdict."""
        return Outcome.FAILED if self.problems or not self.rows else Outcome.PASSED

    @property
    def passed(self) -> bool:
        """Whether everything in the card is as recorded."""
        return self.outcome is Outcome.PASSED

    def __repr__(self) -> str:
        told = f"model card of {self.reference}: {self.outcome.value}, {self.rows} facts compared"
        if not self.problems:
            return told
        return f"{told}, {len(self.problems)} differ\n{text_table(_HEADERS, [one.row() for one in self.problems])}"

    def _repr_html_(self) -> str:
        title = heading(f"model card of {self.reference}: {self.rows} facts compared", self.outcome.value)
        return title + (table(_HEADERS, [one.row() for one in self.problems]) if self.problems else badge("passed"))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        names = ("line", "what", "says", "recorded", "source")
        problems = [{name: getattr(one, name) for name in names} for one in self.problems]
        return {"version": self.reference, "outcome": self.outcome.value, "facts": self.rows, "problems": problems}


def check_card(card: ReadCard, facts: Sequence[Fact]) -> CardCheck:
    """Compare a card with the facts as they were recorded at its time."""
    known = {key_text(fact.key): fact for fact in facts}
    problems = [problem for row in card.rows for problem in _row(row, known)]
    problems += [
        CardProblem(line, f"'{text[:80]}'", "this among the evidence", "nothing: it has no source")
        for line, text in card.loose
    ]
    seen = [row.key for row in card.rows]
    problems += [
        CardProblem(row.line, row.cells[0] if row.cells else row.key, "this a second time", "it once")
        for place, row in enumerate(card.rows)
        if row.key in seen[:place]
    ]
    problems += [
        CardProblem(0, fact.cells[0], "nothing", fact.text, fact.source)
        for key, fact in known.items()
        if key not in seen
    ]
    problems += [problem for row in card.bound for problem in _bound(row, known)]
    problems += _claims(card, facts)
    return CardCheck(card.head.reference, len(card.rows), tuple(sorted(problems, key=lambda one: one.line)))


def _row(row: Row, known: dict[str, Fact]) -> Iterator[CardProblem]:
    fact = known.get(row.key)
    if fact is None:
        what, says = (*row.cells, "", "")[:2]
        yield CardProblem(row.line, what, says, "nothing under this key", row.key)
        return
    if row.cells == fact.cells:
        return
    name, value, source = fact.cells
    found = (*row.cells, "", "", "")[:3]
    if found[1] != value:
        yield CardProblem(row.line, name, *_first_difference(found[1], value), source)
    elif found[0] != name:
        yield CardProblem(row.line, name, found[0], name, source)
    else:
        yield CardProblem(row.line, f"source of {name}", found[2], source)


def _bound(row: Row, known: dict[str, Fact]) -> Iterator[CardProblem]:
    fact = known.get(row.key)
    if fact is None:
        yield CardProblem(row.line, row.key, row.cells[0], "nothing under this key")
    elif not fact.text.endswith(row.cells[0]):  # of a text with spaces the last word stands before its key
        yield CardProblem(row.line, fact.name, row.cells[0], fact.text, fact.source)


def _first_difference(says: str, recorded: str) -> tuple[str, str]:
    """Return the first pair of numbers that differ, or the whole texts when the numbers are the same."""
    theirs, ours = _NUMBER.findall(says), _NUMBER.findall(recorded)
    if len(theirs) == len(ours):
        for their, our in zip(theirs, ours, strict=True):
            if their != our:
                return (f"{their} in '{says}'", f"{our} in '{recorded}'") if len(ours) > 1 else (their, our)
    return says, recorded


def _claims(card: ReadCard, facts: Sequence[Fact]) -> Iterator[CardProblem]:
    """Yield numbers that people give for something that was measured, and that nobody has measured so."""
    measured: dict[str, list[Fact]] = {}
    for fact in facts:
        if fact.section in {"Training run", "Validation", "Fairness"} and isinstance(fact.value, float):
            measured.setdefault(fact.name, []).append(fact)
    for name, known in measured.items():
        spelled = re.escape(name).replace("_", "[_ ]")
        pattern = re.compile(_CLAIM.format(name=spelled), re.IGNORECASE)
        for line, text in card.said:
            for found in pattern.finditer(text):
                if any(_agrees(found["number"], bool(found["percent"]), fact) for fact in known):
                    continue
                recorded = " or ".join(fact.text for fact in known[:3])
                says = f"{found['number']}{' %' if found['percent'] else ''}"
                yield CardProblem(line, name, says, recorded, known[0].source)


def _agrees(number: str, percent: bool, fact: Fact) -> bool:
    """Whether a number in a text is the recorded one, rounded to as many places as it was written with."""
    assert isinstance(fact.value, float)
    value = fact.value * 100 if percent else fact.value
    mantissa, _, exponent = number.lower().partition("e")
    places = len(mantissa.partition(".")[2])
    unit = 10.0 ** (int(exponent or 0) - places)
    return abs(float(number) - value) <= 0.5 * unit * (1 + 1e-9)
