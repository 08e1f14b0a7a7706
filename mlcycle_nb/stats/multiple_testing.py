"""Many tests at once, and tests that go on for ever: control of the false discovery rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.stats._arrays import Floats, probability

REMEMBERED_REJECTIONS = 200
"""LORD++ keeps this many rejection times; forgetting older ones only makes it stricter."""


@dataclass(frozen=True, slots=True, eq=False)
class FdrResult:
    """Which hypotheses are rejected, and the adjusted p-value of each."""

    rejected: npt.NDArray[np.bool_]
    adjusted: Floats
    level: float


def p_value_vector(p_values: npt.ArrayLike) -> Floats:
    """Return p-values as a vector; NaN or a value outside [0, 1] is refused with its position."""
    array = np.asarray(p_values, dtype=np.float64)
    if array.ndim != 1:
        raise InvalidInput("p-values must have one dimension", value=array.shape)
    bad = np.flatnonzero(~((array >= 0) & (array <= 1)))
    if len(bad):
        raise InvalidInput("a p-value must be in [0, 1]", value=float(array[bad[0]]), where=f"p_values[{bad[0]}]")
    return array


def benjamini_hochberg(p_values: npt.ArrayLike, *, q: float = 0.05) -> FdrResult:
    """Choose which hypotheses to reject at a given false discovery rate.

    Parameters
    ----------
    p_values : array_like, shape (n,)
        One p-value per hypothesis, each in [0, 1]. NaN is refused.
    q : float
        False discovery rate to control, in (0, 1).

    Returns
    -------
    FdrResult
        ``rejected`` bool, shape (n,); ``adjusted`` float, shape (n,), each >= its p-value.

    Raises
    ------
    InvalidInput
        If a p-value is NaN or outside [0, 1], naming its position.

    References
    ----------
    Benjamini, Hochberg (1995). J. R. Stat. Soc. B 57(1), 289-300. Independent or positively dependent tests.
    """
    level = probability(q, what="q")
    p = p_value_vector(p_values)
    n = len(p)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * n / np.arange(1, n + 1)
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return FdrResult(rejected=adjusted <= level, adjusted=adjusted, level=level)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineFdr:
    """False-discovery control over a stream of windows with many tests each; the state is this record.

    ``spending`` (default) gives window ``t`` the level ``q * gamma_t``, where the gammas sum to one, and runs
    Benjamini-Hochberg inside the window. *Guarantee:* over the whole life of the stream the expected share of
    false alarms among all alarms is at most ``q``, so with no drift at all the chance of even one alarm is at
    most ``q``; windows may depend on each other in any way (they share one reference sample), tests inside one
    window must be independent or positively dependent.

    ``lord++`` takes the p-values one by one and earns level back with each rejection. *Guarantee:* the same
    ``q``, but only for p-values that are independent over time. It finds more once drift has begun.

    References
    ----------
    Ramdas, Yang, Wainwright, Jordan (2017). Online control of the false discovery rate with decaying memory.
    NeurIPS. (LORD++.) The union bound over windows is elementary: V/R <= sum of V_t/R_t.
    """

    q: float = 0.05
    method: Literal["spending", "lord++"] = "spending"
    steps: int = 0
    rejections: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        probability(self.q, what="q")
        if self.method not in ("spending", "lord++"):
            raise InvalidInput("unknown method", value=self.method, remedy="known: spending, lord++")

    def decide(self, p_values: npt.ArrayLike) -> tuple[OnlineFdr, FdrResult]:
        """Decide on the p-values of the next window; return the next state and the decisions."""
        p = p_value_vector(p_values)
        return self._spend(p) if self.method == "spending" else self._invest(p)

    def _spend(self, p: Floats) -> tuple[OnlineFdr, FdrResult]:
        level = self.q * gamma(self.steps + 1)
        if not len(p):
            return self, FdrResult(rejected=np.zeros(0, dtype=np.bool_), adjusted=np.zeros(0), level=level)
        return replace(self, steps=self.steps + 1), benjamini_hochberg(p, q=level)

    def _invest(self, p: Floats) -> tuple[OnlineFdr, FdrResult]:
        steps, rejections = self.steps, self.rejections
        rejected = np.zeros(len(p), dtype=np.bool_)
        level = 0.0
        for index, value in enumerate(p):
            steps += 1
            level = self._lord_level(steps, rejections)
            if value <= level:
                rejected[index] = True
                rejections = (*rejections, steps)
        if len(rejections) > REMEMBERED_REJECTIONS:
            # The first rejection earns less than the others, so it is kept: forgetting must never raise a level.
            rejections = (rejections[0], *rejections[-REMEMBERED_REJECTIONS + 1 :])
        return replace(self, steps=steps, rejections=rejections), FdrResult(rejected, p.copy(), level)

    def _lord_level(self, step: int, rejections: tuple[int, ...]) -> float:
        start = self.q / 2
        level = start * gamma(step)
        for number, time in enumerate(rejections):
            level += (self.q - start if number == 0 else self.q) * gamma(step - time)
        return level


def gamma(step: int) -> float:
    """Return the share of the error budget for `step` = 1, 2, ...; all shares together are at most one."""
    if step < 1:
        raise InvalidInput("steps count from 1", value=step)
    return _weight(step) / _total_weight()


def _weight(step: int) -> float:
    return 1.0 / ((step + 1) * math.log(step + 1) ** 2)


@lru_cache(maxsize=1)
def _total_weight() -> float:
    # Sum of 1 / (k log^2 k) from k = 2: the head is added up, the tail is bounded by its integral 1 / log(K).
    last = 100_000
    steps = np.arange(2, last + 1, dtype=np.float64)
    return float((1.0 / (steps * np.log(steps) ** 2)).sum() + 1.0 / math.log(last))
