"""Intervals for a metric: bootstrap (percentile, BCa), Wilson, and paired differences. All are seeded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.stats._arrays import Floats, finite_vector, probability

Statistic = Callable[..., float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A point estimate with its confidence interval, from `n` observations."""

    value: float
    low: float
    high: float
    confidence: float
    n: int

    @property
    def finite(self) -> bool:
        """Whether all three numbers can be compared with a bound."""
        return all(math.isfinite(number) for number in (self.value, self.low, self.high))


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Interval for a proportion that stays honest at 0 and n successes.

    References
    ----------
    Wilson (1927). J. Am. Stat. Assoc. 22(158), 209-212.
    """
    level = probability(confidence, what="confidence")
    if not 0 <= successes <= n or n < 1:
        raise InvalidInput("successes must lie in 0..n with n of at least 1", value=(successes, n))
    share = successes / n
    low, high = wilson_bounds(share, n, confidence=level)
    return Interval(value=share, low=low, high=high, confidence=level, n=n)


def wilson_bounds(share: float, n: float, *, confidence: float) -> tuple[float, float]:
    """Return Wilson's bounds for a share seen in an effective number `n` of observations."""
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At a share of exactly 0 or 1 the bound is exact; rounding must not leave the estimate outside.
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def bootstrap(
    statistic: Statistic,
    *samples: npt.ArrayLike,
    confidence: float = 0.95,
    resamples: int = 1000,
    method: Literal["percentile", "bca"] = "percentile",
    seed: int = 0,
) -> Interval:
    """Interval for ``statistic(*samples)`` where row i of every sample belongs together.

    Parameters
    ----------
    statistic : callable
        Takes arrays of equal length and returns a number. Where it is not finite on a resample (a class that
        was not drawn), that resample counts as the worst on both sides, so the interval can only grow.
    *samples : array_like, shape (n, ...)
    method : {"percentile", "bca"}
        BCa corrects bias and skew by the jackknife (n more calls of `statistic`).

    References
    ----------
    Efron, Tibshirani (1993). An Introduction to the Bootstrap. Chapman & Hall, chapters 13 and 14.
    """
    level = probability(confidence, what="confidence")
    arrays = [np.asarray(sample) for sample in samples]
    n = _common_length(arrays)
    value = float(statistic(*arrays))
    rng = np.random.default_rng(seed)
    draws = np.empty(resamples)
    for index in range(resamples):
        rows = rng.integers(0, n, n)
        draws[index] = statistic(*(array[rows] for array in arrays))
    tail = (1 - level) / 2
    if method == "percentile":
        return interval_of_draws(value, draws, confidence=level, n=n)
    if not np.isfinite(draws).all():
        return interval_of_draws(value, draws, confidence=level, n=n)
    low_share, high_share = _bca_shares(statistic, arrays, value, draws, tail)
    low, high = np.quantile(draws, [low_share, high_share])
    return Interval(value=value, low=float(min(low, value)), high=float(max(high, value)), confidence=level, n=n)


def paired_difference(
    statistic: Statistic,
    first: tuple[npt.ArrayLike, ...],
    second: tuple[npt.ArrayLike, ...],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Interval for ``statistic(*first) - statistic(*second)`` on the same rows; 0 is no difference."""
    width = len(first)

    def difference(*arrays: npt.ArrayLike) -> float:
        return statistic(*arrays[:width]) - statistic(*arrays[width:])

    return bootstrap(difference, *first, *second, confidence=confidence, resamples=resamples, seed=seed)


def bootstrap_counts(
    statistic: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]],
    counts: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of a statistic that needs counts only, such as any metric of a confusion matrix.

    Drawing n rows with replacement and counting them is one multinomial draw, so this is the ordinary
    bootstrap at a small part of its cost.

    Parameters
    ----------
    statistic : callable
        Takes counts of shape (resamples, *counts.shape) and returns shape (resamples,).
    counts : array_like of int
    """
    level = probability(confidence, what="confidence")
    table = np.asarray(counts, dtype=np.int64)
    n = int(table.sum())
    if n < 1:
        raise InvalidInput("the counts are all zero")
    value = float(statistic(table[None])[0])
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(n, table.ravel() / n, size=resamples).reshape(resamples, *table.shape)
    return interval_of_draws(value, statistic(draws), confidence=level, n=n)


def interval_of_draws(value: float, draws: npt.ArrayLike, *, confidence: float, n: int) -> Interval:
    """Return the percentile interval of bootstrap `draws`; a draw that is not finite is the worst on each side."""
    array = np.asarray(draws, dtype=np.float64)
    tail = (1 - confidence) / 2
    low = np.quantile(np.where(np.isfinite(array), array, -np.inf), tail, method="lower")
    high = np.quantile(np.where(np.isfinite(array), array, np.inf), 1 - tail, method="higher")
    if math.isfinite(value):
        low, high = min(low, value), max(high, value)
    return Interval(value=value, low=float(low), high=float(high), confidence=confidence, n=n)


def mean_interval(values: npt.ArrayLike, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Bootstrap interval of a mean."""
    array = finite_vector(values, what="values", minimum=2)
    rng = np.random.default_rng(seed)
    draws = np.array([array[rng.integers(0, len(array), len(array))].mean() for _ in range(resamples)])
    return interval_of_draws(float(array.mean()), draws, confidence=confidence, n=len(array))


def observations_needed(interval: Interval, bound: float) -> int | None:
    """Return about how many observations would put `bound` outside the interval; None when it cannot be said.

    The width of the interval is taken to shrink with the square root of the number of observations.
    """
    if not interval.finite or interval.value == bound:
        return None
    half = interval.value - interval.low if interval.value > bound else interval.high - interval.value
    ratio = half / abs(interval.value - bound)
    if not ratio < 1e6:  # squared it would be beyond all data sets, or beyond all floats
        return None
    needed = interval.n * ratio**2
    return math.ceil(needed * 1.05) if needed < 1e12 else None


def _common_length(arrays: list[npt.NDArray[np.generic]]) -> int:
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1:
        raise InvalidInput("samples must have equal lengths", value=sorted(lengths))
    n = lengths.pop()
    if n < 2:
        raise InvalidInput("a bootstrap needs at least 2 observations", value=n)
    return n


def _bca_shares(
    statistic: Statistic, arrays: list[npt.NDArray[np.generic]], value: float, draws: Floats, tail: float
) -> tuple[float, float]:
    n = len(arrays[0])
    below = float((draws < value).mean() + (draws == value).mean() / 2)
    bias = float(stats.norm.ppf(min(max(below, 1e-6), 1 - 1e-6)))
    keep = ~np.eye(n, dtype=np.bool_)
    jackknife = np.array([statistic(*(array[keep[i]] for array in arrays)) for i in range(n)])
    centred = jackknife.mean() - jackknife
    scale = float((centred**2).sum()) ** 1.5
    acceleration = float((centred**3).sum()) / (6 * scale) if scale > 0 else 0.0

    def share(probability_: float) -> float:
        z = bias + float(stats.norm.ppf(probability_))
        return float(stats.norm.cdf(bias + z / (1 - acceleration * z)))

    return share(tail), share(1 - tail)
