"""Compare a reference sample with a current sample: is there a difference, and how large is it?"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.stats._arrays import Floats, finite_vector

SMALLEST_EXPECTED = 5.0
TRUSTED_EXPECTED = 25.0
TRUSTED_P_VALUE = 0.01
"""Expected cell count below which categories are merged (Cochran's rule)."""


@dataclass(frozen=True, slots=True)
class SortedReference:
    """A numeric reference sample sorted once, so that each later comparison costs ``n log m``.

    Parameters
    ----------
    values : ndarray, shape (m,)
        Ascending; make it with :meth:`of`.
    """

    values: Floats
    spread: float = field(default=0.0)

    @classmethod
    def of(cls, values: npt.ArrayLike | SortedReference) -> SortedReference:
        """Sort `values`, unless that has been done already."""
        if isinstance(values, SortedReference):
            return values
        array = np.sort(finite_vector(values, what="reference", minimum=2))
        return cls(array, float(array.std()))


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoSampleResult:
    """``p_value`` says whether there is a difference, ``effect`` how large it is (0 is none)."""

    statistic: float
    p_value: float
    effect: float
    n_reference: int
    n_current: int


def ks(reference: npt.ArrayLike | SortedReference, current: npt.ArrayLike) -> TwoSampleResult:
    """Two-sided Kolmogorov-Smirnov test.

    Parameters
    ----------
    reference : array_like, shape (m,), or SortedReference
    current : array_like, shape (n,)
        NaN and infinity are refused with their position.

    Returns
    -------
    TwoSampleResult
        ``statistic`` and ``effect`` are the largest distance between both distribution functions, in [0, 1].

    References
    ----------
    Hodges (1957). The significance probability of the Smirnov two-sample test. Arkiv för Matematik 3, 469-486.
    """
    ref = SortedReference.of(reference).values
    cur = np.sort(finite_vector(current, what="current", minimum=2))
    m, n = len(ref), len(cur)
    distance = _largest_gap(ref, cur) if m <= n else _largest_gap(cur, ref)
    p_value = _ks_p_value(round(distance, 12), round(m * n / (m + n)))
    return TwoSampleResult(statistic=distance, p_value=p_value, effect=distance, n_reference=m, n_current=n)


@lru_cache(maxsize=65_536)
def _ks_p_value(distance: float, n: int) -> float:
    # Distances are multiples of 1 / (m n), so many windows of one size meet the same ones; the curve costs 0.4 ms.
    return min(max(float(stats.kstwo.sf(distance, n)), 0.0), 1.0)


def _largest_gap(points: Floats, other: Floats) -> float:
    """Return the largest distance between the distribution functions of two sorted samples.

    Between two neighbours of `points` its function is flat and the other one only grows, so the supremum is met at
    a point, from the right or from the left: looking at the smaller sample's points is enough, and fastest.
    """
    n, m = len(points), len(other)
    if np.any(points[1:] == points[:-1]):
        right, left = np.searchsorted(points, points, "right") / n, np.searchsorted(points, points, "left") / n
    else:
        left = np.arange(n) / n
        right = left + 1 / n
    above = np.abs(right - np.searchsorted(other, points, "right") / m)
    below = np.abs(left - np.searchsorted(other, points, "left") / m)
    return float(max(above.max(), below.max()))


def wasserstein_effect(reference: npt.ArrayLike | SortedReference, current: npt.ArrayLike) -> float:
    """Return the 1-Wasserstein distance in standard deviations of the reference; 0 is no difference.

    A pure shift by a quarter of a standard deviation gives 0.25. For a constant reference the distance is
    infinite as soon as one current value differs, and 0 otherwise.
    """
    ref = SortedReference.of(reference)
    cur = finite_vector(current, what="current", minimum=2)
    distance = float(stats.wasserstein_distance(ref.values, cur))
    if ref.spread > 0:
        return distance / ref.spread
    return 0.0 if distance == 0 else float("inf")


def psi(reference: npt.ArrayLike | SortedReference, current: npt.ArrayLike, *, bins: int = 10) -> float:
    """Return the population stability index over quantile bins of the reference; 0 is no difference.

    Half a count is added to each bin, so that an empty bin gives a large number and not an infinite one.
    By long practice below 0.1 is called stable and above 0.25 a large change; it is an effect size, not a test.
    """
    ref = SortedReference.of(reference).values
    cur = finite_vector(current, what="current", minimum=2)
    edges = np.unique(np.quantile(ref, np.linspace(0, 1, bins + 1)[1:-1]))
    before = np.bincount(np.searchsorted(edges, ref, "left"), minlength=len(edges) + 1)
    now = np.bincount(np.searchsorted(edges, cur, "left"), minlength=len(edges) + 1)
    return _psi_of_counts(before, now)


def psi_categories(reference: Mapping[Hashable, int], current: Mapping[Hashable, int]) -> float:
    """Return the population stability index of two tables of counts."""
    table = _table(reference, current)
    return _psi_of_counts(table[0], table[1])


def chi_squared(reference: Mapping[Hashable, int], current: Mapping[Hashable, int]) -> TwoSampleResult:
    """Test whether two samples of categories come from one distribution.

    Categories with an expected count below 5 are merged into one (this looks at the margins only, so the test
    stays valid), and that one joins the next smallest when its own expected count is below 1. When two cells are
    left and one is still small, Fisher's exact test decides.

    Parameters
    ----------
    reference, current : mapping
        Category to count. A category that only one of them has counts as 0 in the other.

    Returns
    -------
    TwoSampleResult
        ``effect`` is Cramer's V with the bias correction of Bergsma (2013), in [0, 1]. One single category
        in both samples gives a p-value of 1.
    """
    table = _merge_small(_table(reference, current))
    n_reference, n_current = int(table[0].sum()), int(table[1].sum())
    if table.shape[1] < 2:
        return TwoSampleResult(statistic=0.0, p_value=1.0, effect=0.0, n_reference=n_reference, n_current=n_current)
    expected = _expected(table)
    statistic = float(((table - expected) ** 2 / expected).sum())
    if table.shape[1] == 2 and expected.min() < SMALLEST_EXPECTED:
        p_value = float(stats.fisher_exact(table.astype(np.int64))[1])
    else:
        p_value = float(stats.chi2.sf(statistic, table.shape[1] - 1))
    effect = cramers_v(table)
    return TwoSampleResult(
        statistic=statistic, p_value=p_value, effect=effect, n_reference=n_reference, n_current=n_current
    )


def with_exact_tail(p_value: float, reference: Mapping[Hashable, int], current: Mapping[Hashable, int]) -> float:
    """Return a chi-squared test's p-value, raised to an exact bound where its tail cannot be trusted.

    A category that is expected a few times only has a tail far heavier than chi-squared's: where 1 row of 100 is
    expected, 8 have chance 1e-5 and a chi-squared p-value of 2e-8. Control of false discoveries over thousands of
    windows spends levels as small as that. The hypergeometric tail of each category against the rest, doubled for both
    sides and multiplied by the number of categories (Bonferroni), is valid however small. Small categories are merged
    as `chi_squared` does it; p-values above 0.01 stay as they are.

    Parameters
    ----------
    p_value : float
        Of a chi-squared test of these counts.
    reference, current : mapping
        Category to count.
    """
    if p_value > TRUSTED_P_VALUE:
        return p_value
    counts = _merge_small(_table(reference, current)).astype(np.int64)
    if counts.shape[1] < 2 or _expected(counts.astype(np.float64)).min() >= TRUSTED_EXPECTED:
        return p_value
    before, now = counts
    law = stats.hypergeom(before.sum() + now.sum(), before + now, now.sum())
    one_sided = np.minimum(law.cdf(now), law.sf(now - 1))
    return max(p_value, min(1.0, 2 * counts.shape[1] * float(one_sided.min())))


def cramers_v(table: npt.ArrayLike) -> float:
    """Return Cramer's V of a table of counts, corrected for bias; 0 is independence, 1 is full dependence.

    References
    ----------
    Bergsma (2013). A bias-correction for Cramer's V and Tschuprow's T. J. Korean Stat. Soc. 42(3), 323-328.
    """
    counts = np.asarray(table, dtype=np.float64)
    if counts.ndim != 2 or counts.min(initial=0) < 0 or not np.isfinite(counts).all():
        raise InvalidInput("a table of counts must be two-dimensional, finite and not negative", value=counts.shape)
    counts = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    rows, columns = counts.shape
    n = counts.sum()
    if min(rows, columns) < 2 or n < 2:
        return 0.0
    expected = _expected(counts)
    phi2 = float(((counts - expected) ** 2 / expected).sum() / n)
    corrected = max(0.0, phi2 - (rows - 1) * (columns - 1) / (n - 1))
    smaller = min(rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)) - 1
    return float(min(1.0, np.sqrt(corrected / smaller))) if smaller > 0 else 0.0


def count_categories(values: Sequence[Hashable] | npt.NDArray[np.generic]) -> dict[Hashable, int]:
    """Return how often each category occurs."""
    found, counts = np.unique(np.asarray(values), return_counts=True)
    return {category: int(count) for category, count in zip(found.tolist(), counts, strict=True)}


def _table(reference: Mapping[Hashable, int], current: Mapping[Hashable, int]) -> Floats:
    for what, sample in (("reference", reference), ("current", current)):
        for category, count in sample.items():
            if isinstance(count, bool) or count < 0 or count != int(count):
                raise InvalidInput(
                    "a count must be a whole number of at least 0", value=count, where=f"{what}[{category!r}]"
                )
        if sum(sample.values()) == 0:
            raise InvalidInput(f"{what} holds no observation")
    categories = list(dict.fromkeys([*reference, *current]))
    rows = [[sample.get(category, 0) for category in categories] for sample in (reference, current)]
    table = np.asarray(rows, dtype=np.float64)
    return table[:, table.sum(axis=0) > 0]


def _expected(table: Floats) -> Floats:
    return np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()


def _merge_small(table: Floats) -> Floats:
    small = _expected(table).min(axis=0) < SMALLEST_EXPECTED
    small[np.argmax(table.sum(axis=0))] = False  # one category is never merged away, so there is something to compare
    if small.sum() > 1:
        table = np.column_stack([table[:, small].sum(axis=1), table[:, ~small]])
    # The rare ones together may still be a thin cell: Cochran allows one such cell down to an expected count of 1.
    order = np.argsort(table.sum(axis=0), kind="stable")
    table = table[:, order]
    if table.shape[1] > 2 and _expected(table)[:, 0].min() < 1.0:
        table = np.column_stack([table[:, 0] + table[:, 1], table[:, 2:]])
    return table


def _psi_of_counts(before: npt.NDArray[np.number[Any]], now: npt.NDArray[np.number[Any]]) -> float:
    p = (before + 0.5) / (before.sum() + 0.5 * len(before))
    q = (now + 0.5) / (now.sum() + 0.5 * len(now))
    return float(((q - p) * np.log(q / p)).sum())
