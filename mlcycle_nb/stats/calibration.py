"""Confidence and truth: is a classifier calibrated, and how often is it right where nobody has said so?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from mlcycle_nb.stats._arrays import Floats

SMALLEST_ROWS = 200
SMALLEST_CLASS = 20
"""Right answers, and wrong ones, below which a calibration says nothing."""
BINS = 10
SMALLEST_VARIANCE = 5.0
"""Of the count of right answers in a group of the calibration test."""
TEST_LEVEL = 0.01
_CLIP = 1e-6
_STEPS = 50


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Chance of being right at a confidence: ``1 / (1 + exp(-(a + b logit(confidence))))``.

    Attributes
    ----------
    weights : ndarray, shape (2,)
        ``a`` and ``b``; 0 and 1 when the confidence is that chance already.
    covariance : ndarray, shape (2, 2)
        How uncertain they are.
    """

    weights: Floats
    covariance: Floats

    def chance(self, confidence: npt.ArrayLike) -> Floats:
        """Return the chance of being right at each confidence."""
        return _logistic(_design(confidence) @ self.weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Share of right answers in a sample, with the interval that holds the share in this very sample."""

    value: float
    low: float
    high: float


def calibrate(confidence: npt.ArrayLike, right: npt.ArrayLike) -> tuple[Calibration | None, str]:
    """Learn how confidence and truth belong together, from rows with labels.

    Parameters
    ----------
    confidence : array_like, shape (n,)
        The model's probability of its own answer, in [0, 1].
    right : array_like, shape (n,)
        Whether the answer was right.

    Returns
    -------
    Calibration or None, str
        None with the reason when there are too few rows, or when a curve that is learned on one half does not fit the
        other half (Hosmer-Lemeshow at level 0.01, each half by the other).
    """
    x, y = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    usable = np.isfinite(x)
    x, y = x[usable], y[usable]
    good, bad = int(y.sum()), int(len(y) - y.sum())
    if len(y) < SMALLEST_ROWS:
        return None, f"not calibrated: {len(y)} labelled reference rows, under {SMALLEST_ROWS}"
    if min(good, bad) < SMALLEST_CLASS:
        return (
            None,
            f"not calibrated: {good} right and {bad} wrong reference rows, at least {SMALLEST_CLASS} each",
        )
    if len(np.unique(x)) < BINS:
        return None, f"not calibrated: the confidence takes {len(np.unique(x))} values only"
    p_value = _misfit(x, y)
    if p_value < TEST_LEVEL:
        return (
            None,
            f"not calibrated: being right does not follow the confidence by any such curve (p {p_value:.1g})",
        )
    fitted = _fit(x, y)
    if fitted is None or fitted.weights[1] <= 0:
        return None, "not calibrated: a higher confidence is not more often right"
    return fitted, ""


def estimate(calibration: Calibration, confidence: npt.ArrayLike, *, alpha: float = 0.05) -> Estimate:
    """Return how often the model is right on rows without labels.

    The interval has two parts: rows that are right with a known chance still vary, and the chance is known from a
    sample only. It holds as long as confidence means what it meant; a changed relation of inputs and truth cannot be
    seen without labels.
    """
    design = _design(confidence)
    chance = _logistic(design @ calibration.weights)
    slope = (design * (chance * (1 - chance))[:, None]).mean(axis=0)
    own = float((chance * (1 - chance)).sum()) / len(chance) ** 2
    variance = own + float(slope @ calibration.covariance @ slope)
    value = float(chance.mean())
    # Half a row on either side: the share is one of n + 1 values.
    width = float(stats.norm.isf(alpha / 2)) * np.sqrt(variance) + 0.5 / len(chance)
    return Estimate(value=value, low=max(0.0, value - width), high=min(1.0, value + width))


def still_holds(calibration: Calibration, confidence: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Return the p-value that labels of another sample, such as late ones of the traffic, fit the calibration."""
    x, y = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    design = _design(x)
    chance = _logistic(design @ calibration.weights)
    slope = (design * (chance * (1 - chance))[:, None]).sum(axis=0)
    variance = float((chance * (1 - chance)).sum()) + float(slope @ calibration.covariance @ slope)
    if not len(y) or variance <= 0:
        return 1.0
    return float(2 * stats.norm.sf(abs(float((y - chance).sum())) / np.sqrt(variance)))


def _misfit(x: Floats, y: Floats) -> float:
    order = np.argsort(x, kind="stable")
    half = np.empty(len(x), dtype=np.int64)
    half[order] = np.arange(len(x)) % 2
    p_values = []
    for part in (0, 1):
        fitted = _fit(x[half == part], y[half == part])
        if fitted is None:
            return 0.0
        p_values.append(_hosmer_lemeshow(fitted, x[half != part], y[half != part]))
    return min(1.0, 2 * min(p_values))


def _hosmer_lemeshow(fitted: Calibration, x: Floats, y: Floats) -> float:
    design = _design(x)
    chance = _logistic(design @ fitted.weights)
    weight = chance * (1 - chance)
    # Groups of equal variance and not of equal size: among very sure rows hardly any is wrong, and a count of two or
    # three is far from normal.
    order = np.argsort(x, kind="stable")
    bins = int(np.clip(weight.sum() / SMALLEST_VARIANCE, 2, BINS))
    reached = weight[order].cumsum() / weight.sum()
    groups = np.split(order, np.searchsorted(reached, np.arange(1, bins) / bins, "right"))
    gap = np.array([float((y[g] - chance[g]).sum()) for g in groups])
    spread = np.diag([float(weight[g].sum()) for g in groups])
    # The curve is itself learned from a sample, so what it is wrong by is common to the groups.
    slopes = np.array([(design[g] * weight[g][:, None]).sum(axis=0) for g in groups])
    covariance = spread + slopes @ fitted.covariance @ slopes.T
    statistic = float(gap @ np.linalg.solve(covariance + 1e-9 * np.eye(bins), gap))
    return float(stats.chi2.sf(statistic, bins))


def _fit(x: Floats, y: Floats) -> Calibration | None:
    design, weights = _design(x), np.zeros(2)
    for _ in range(_STEPS):
        chance = _logistic(design @ weights)
        information = (design * (chance * (1 - chance))[:, None]).T @ design + 1e-6 * np.eye(2)
        step = np.linalg.solve(information, design.T @ (y - chance))
        weights = weights + np.clip(step, -2.0, 2.0)
        if float(np.abs(step).max()) < 1e-8:
            break
    if not np.isfinite(weights).all() or float(np.abs(weights).max()) > 1e3:
        return None
    return Calibration(weights, np.linalg.inv(information))


def _design(confidence: npt.ArrayLike) -> Floats:
    clipped = np.clip(np.asarray(confidence, dtype=np.float64), _CLIP, 1 - _CLIP)
    return np.column_stack([np.ones(len(clipped)), np.log(clipped / (1 - clipped))])


def _logistic(values: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.clip(values, -50, 50)))
