"""What a drift detector promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Kind = Literal["numeric", "categorical", "joint", "tabular"]
Floats: TypeAlias = npt.NDArray[np.float64]
SMALLEST_SAMPLE = 20
"""Rows on either side below which no detector gives a verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Reference against current: is there a difference (`p_value`), and how large is it (`effect`, 0 is none)?"""

    p_value: float
    effect: float


class Detector(Protocol):
    """Compares a current sample with a reference.

    A plug-in is an object with these members, called ``PLUGIN`` in its file. It is given finite values only, at
    least 20 on each side, not all of them equal. Its promises, which the contract tests check: on equal
    distributions ``p_value <= a`` happens with a chance of about ``a`` or less; a real shift is found; the order
    of rows changes nothing; so does the scale of the numbers, up to rounding.

    Attributes
    ----------
    kind : {"numeric", "categorical", "joint", "tabular"}
        ``numeric`` and ``categorical`` take one column, ``joint`` a matrix of all numeric columns at once. A
        ``tabular`` plug-in has `parts` instead of the members below: a mapping of kind to detector.
    effect_name : str
        What the effect is, for people.
    effect_bound : float
        Effect below which a difference is too small to matter, unless the monitor says otherwise.
    smallest_sample : int, optional
        Rows below which it gives no verdict; 20 by default.
    ordered : bool, optional
        Whether the window's rows are a stream: then their order matters, and that of the reference still does not.
    """

    kind: Kind
    effect_name: str
    effect_bound: float

    def prepare(self, reference: Floats) -> Any:
        """Do once what depends on the reference alone."""
        ...

    def compare(self, prepared: Any, current: Floats) -> Comparison:
        """Compare one window with the prepared reference."""
        ...


def parts_of(detector: Detector) -> tuple[Detector, ...]:
    """Return a detector, or the detectors that it is made of."""
    parts = getattr(detector, "parts", None)
    return (detector,) if parts is None else tuple(parts.values())


def smallest_of(detector: Detector) -> int:
    """Return how many rows a detector needs on either side."""
    return int(getattr(detector, "smallest_sample", SMALLEST_SAMPLE))


def unfit(reference: Floats, current: Floats, smallest: int = SMALLEST_SAMPLE) -> str:
    """Return why these samples cannot be compared, or the empty text."""
    for what, sample in (("the reference", reference), ("the window", current)):
        if len(sample) < smallest:
            return f"{what} has {len(sample)} rows, under {smallest}"
        bad = int(np.count_nonzero(~np.isfinite(sample).reshape(len(sample), -1).all(axis=1)))
        if bad:
            return f"{bad} of {len(sample)} values of {what} are not finite"
    first = reference[0]
    if (reference == first).all() and (current == first).all():
        return "one and the same value throughout"
    return ""


def caution(reference: Floats, current: Floats) -> str:
    """Return why a comparison that finds nothing shows nothing: a sample without any variation."""
    for what, sample in (("the reference", reference), ("the window", current)):
        if (sample == sample[0]).all():
            return f"{what} holds one single value"
    return ""
