"""The compared requests on which two versions differ most: found in the prediction log, few, small, and in order."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlcycle_nb.notebook.html import heading, paragraph, table, text_table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

KEPT = 20
LOOKED_AT = 8 * KEPT
"""Candidates of one look: clients repeat requests, and a table of one input twenty times tells little."""
INPUTS_KEPT = 16
"""Numbers of an input that are kept; the whole of it is in the prediction log."""
INPUTS_SHOWN = 4
VALUE_TOLERANCE = 0.05
"""Two values agree when they differ by at most this share of the larger one."""
NOT_FINITE = 3.0
"""Score of an answer that is no number: above every other."""
HEADERS = ("prediction", "row", "difference", "stable says", "new says", "input")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """One row that two versions answered differently.

    Attributes
    ----------
    score : float
        Classes: how sure both were of their different answers, the mean of the two probabilities. Values: their
        difference as a share of the larger one.
    input : tuple of float
        The first numbers of the row, at most `INPUTS_KEPT` of `input_size`.
    stable, new : float, optional
        The two answers: class index or value; None for one that is not finite.
    stable_confidence, new_confidence : float, optional
        Probabilities of the two answers, where the model gives any.
    """

    prediction_id: str
    row: int
    time: datetime
    score: float
    stable: float | None
    new: float | None
    stable_confidence: float | None = None
    new_confidence: float | None = None
    input: tuple[float | None, ...] = ()
    input_size: int = 0
    input_digest: str = ""

    @property
    def same_as(self) -> tuple[Any, ...]:
        """What another disagreement of the same input and answers has in common."""
        return (self.input_digest or (self.prediction_id, self.row), self.stable, self.new)

    def told(self, side: str) -> str:
        """Return what ``stable`` or ``new`` said, with its confidence."""
        answer, sure = getattr(self, side), getattr(self, f"{side}_confidence")
        if answer is None:
            return "not finite"
        return f"{answer:.6g}" if sure is None else f"{answer:g} ({sure:.0%})"

    def cells(self) -> tuple[Any, ...]:
        """Return the cells of `HEADERS`."""
        shown = ", ".join("n/a" if value is None else f"{value:.4g}" for value in self.input[:INPUTS_SHOWN])
        rest = self.input_size - min(len(self.input), INPUTS_SHOWN)
        inputs = f"{shown}, … {rest} more" if rest else shown
        return self.prediction_id, self.row, f"{self.score:.3g}", self.told("stable"), self.told("new"), inputs


def differ(one: Any, other: Any) -> bool:
    """Whether two answers are not the same, values within a tolerance."""
    if isinstance(one, float) or isinstance(other, float):
        scale = max(abs(one), abs(other))
        return not abs(one - other) <= VALUE_TOLERANCE * scale  # written so that NaN differs from everything
    return bool(one != other)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Rows that both versions answered: positions in one table of predictions, pair by pair."""

    table: pa.Table
    stable: Sequence[int]
    new: Sequence[int]

    def column(self, name: str, side: str) -> list[Any]:
        """Return one column of one side."""
        import pyarrow as pa

        return list(self.table[name].take(pa.array(getattr(self, side), pa.int64())).to_pylist())


def pair(predictions: pa.Table, *, stable: int, new: int, since: datetime, until: datetime) -> Pairs:
    """Join what both versions answered to the same row, where the new version's answer came in a window.

    A request that was served and copied to the same version counts once, as served.
    """
    if predictions.num_rows == 0:
        return Pairs(predictions, (), ())
    names = ("prediction_id", "row", "version", "mirrored", "time")
    columns = zip(*(predictions[name].to_pylist() for name in names), strict=True)
    sides: dict[int, dict[tuple[str, int], int]] = {stable: {}, new: {}}
    served: set[tuple[str, int, int]] = set()
    for position, (key, row, version, mirrored, moment) in enumerate(columns):
        if version not in sides or (version == new and not since <= moment < until):
            continue
        if not mirrored:
            served.add((key, row, version))
            sides[version][key, row] = position
        elif (key, row, version) not in served:
            sides[version].setdefault((key, row), position)
    both = [key for key in sides[new] if key in sides[stable]]
    return Pairs(predictions, [sides[stable][key] for key in both], [sides[new][key] for key in both])


def answers(pairs: Pairs) -> tuple[list[Any], list[Any]]:
    """Return both sides' class indices or values, in the order of the pairs."""
    if not len(pairs.new):
        return [], []
    column = "label" if "label" in pairs.table.column_names else "value"
    return pairs.column(column, "stable"), pairs.column(column, "new")


def worst(known: Iterable[Disagreement], pairs: Pairs, *, kept: int = KEPT) -> tuple[Disagreement, ...]:
    """Return the `kept` largest of the known disagreements and those among the pairs, the largest first.

    Of equal inputs with equal answers the first one is kept.
    """
    old, new = answers(pairs)
    found = {one.same_as: one for one in known}
    chosen = [at for at, (one, other) in enumerate(zip(old, new, strict=True)) if differ(one, other)]
    if chosen:
        some = Pairs(pairs.table, [pairs.stable[at] for at in chosen], [pairs.new[at] for at in chosen])
        scored = _scored(some, [old[at] for at in chosen], [new[at] for at in chosen])
        best = sorted(range(len(chosen)), key=lambda at: -scored[at][0])[:LOOKED_AT]
        for one in _built(some, best, old=[old[at] for at in chosen], new=[new[at] for at in chosen], scored=scored):
            found.setdefault(one.same_as, one)
    return tuple(sorted(found.values(), key=lambda one: (-one.score, one.time, one.prediction_id, one.row))[:kept])


def _scored(pairs: Pairs, old: Sequence[Any], new: Sequence[Any]) -> list[tuple[float, float | None, float | None]]:
    """Return score and confidences of each pair."""
    if "label" not in pairs.table.column_names:
        return [(_relative(float(one), float(other)), None, None) for one, other in zip(old, new, strict=True)]
    if "probabilities" not in pairs.table.column_names:
        return [(1.0, None, None)] * len(new)
    sure = [
        [_probability(row, label) for row, label in zip(pairs.column("probabilities", side), labels, strict=True)]
        for side, labels in (("stable", old), ("new", new))
    ]
    return [
        (NOT_FINITE if one is None or other is None else (one + other) / 2, one, other)
        for one, other in zip(*sure, strict=True)
    ]


def _relative(one: float, other: float) -> float:
    if not (math.isfinite(one) and math.isfinite(other)):
        return NOT_FINITE
    return abs(one - other) / max(abs(one), abs(other))


def _probability(row: Sequence[float] | None, label: Any) -> float | None:
    if row is None or label is None or not 0 <= int(label) < len(row) or not math.isfinite(row[int(label)]):
        return None
    return round(float(row[int(label)]), 4)


def _built(
    pairs: Pairs,
    chosen: Sequence[int],
    *,
    old: Sequence[Any],
    new: Sequence[Any],
    scored: Sequence[tuple[float, float | None, float | None]],
) -> list[Disagreement]:
    few = Pairs(pairs.table, [pairs.stable[at] for at in chosen], [pairs.new[at] for at in chosen])
    columns = (few.column(name, "new") for name in ("prediction_id", "row", "time", "input"))
    return [
        Disagreement(
            prediction_id=key,
            row=row,
            time=moment,
            score=round(scored[at][0], 6),
            stable=_plain(old[at]),
            new=_plain(new[at]),
            stable_confidence=scored[at][1],
            new_confidence=scored[at][2],
            input=tuple(_plain(value) for value in (given or ())[:INPUTS_KEPT]),
            input_size=len(given or ()),
            input_digest=_digest(given),
        )
        for at, (key, row, moment, given) in zip(chosen, zip(*columns, strict=True), strict=True)
    ]


def _digest(given: Sequence[Any] | None) -> str:
    return "" if given is None else hashlib.sha256(repr(given).encode()).hexdigest()[:16]


def _plain(value: Any) -> float | None:
    """Return a number that JSON can hold, with six digits."""
    return float(f"{float(value):.6g}") if value is not None and math.isfinite(value) else None


@dataclass(frozen=True, slots=True, repr=False)
class Disagreements:
    """The compared requests on which a rollout's two versions differ most; shows itself as a table."""

    rollout: str
    stable: str
    new: str
    rows: tuple[Disagreement, ...]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.rows)

    def __repr__(self) -> str:
        return "\n".join([self._title(), self._note(), *([text_table(HEADERS, self.cells())] if self.rows else [])])

    def _repr_html_(self) -> str:
        shown = table(HEADERS, self.cells()) if self.rows else ""
        return heading(self._title()) + paragraph(self._note()) + shown

    def cells(self) -> list[tuple[Any, ...]]:
        """Return one row of cells a disagreement, the largest first."""
        return [one.cells() for one in self.rows]

    def to_frame(self) -> pd.DataFrame:
        """Return a data frame with one row a disagreement and all its fields."""
        import pandas as pd

        names = Disagreement.__slots__
        return pd.DataFrame([{name: getattr(one, name) for name in names} for one in self.rows], columns=list(names))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        rows = [
            {name: getattr(one, name) for name in Disagreement.__slots__ if name != "time"}
            | {"time": one.time.isoformat(), "input": list(one.input)}
            for one in self.rows
        ]
        return {"rollout": self.rollout, "stable": self.stable, "new": self.new, "rows": rows}

    def _title(self) -> str:
        return f"disagreements of {self.stable} (stable) and {self.new} (new) in {self.rollout}"

    def _note(self) -> str:
        if not self.rows:
            return "none among the compared requests so far"
        return f"the {len(self.rows)} largest; the prediction log has their whole inputs under the prediction id"


def rows_of(stored: Iterable[Mapping[str, Any]]) -> tuple[Disagreement, ...]:
    """Read the rows that an analysis has stored."""
    from mlcycle_nb.store.record import parse_time

    return tuple(
        Disagreement(**{**one, "time": parse_time(one["time"]), "input": tuple(one["input"])}) for one in stored
    )
