"""Permutation tests for detectors of whole rows: one matrix product for all permutations, and a smooth tail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlcycle_nb.monitoring.detectors._contract import Floats

ROWS = 500
PERMUTATIONS = 999
COUNTED = 10
"""Permutations at least as extreme below which their count is too coarse for a p-value."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Mean and standard deviation of the reference's columns; a constant column keeps its unit."""

    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, reference: Floats) -> Scale:
        deviation = reference.std(axis=0)
        return cls(reference.mean(axis=0), np.where(deviation == 0, 1.0, deviation))

    def apply(self, rows: Floats) -> Floats:
        """Return rows in standard deviations from the reference's mean."""
        scaled: Floats = (rows - self.mean) / self.deviation
        return scaled


def canonical(rows: Floats, limit: int = ROWS) -> Floats:
    """Return at most `limit` rows in an order that depends on their values alone, chosen likewise."""
    ordered: Floats = rows[np.lexsort(rows.T)]
    if len(rows) <= limit:
        return ordered
    return ordered[np.sort(np.random.default_rng(0).choice(len(rows), limit, replace=False))]


def even(rows: Floats, limit: int) -> Floats:
    """Return at most `limit` rows, evenly spread and in their own order."""
    if len(rows) <= limit:
        return rows
    return rows[np.linspace(0, len(rows) - 1, limit).round().astype(np.int64)]


def memberships(order: Floats, reference: int, permutations: int = PERMUTATIONS) -> Floats:
    """Return a column of ones and zeros a permutation: which of the pooled rows are its reference.

    The first column is the data as it is: the first `reference` rows. Rows are shuffled in the order of `order`, a
    number a row that does not depend on where the row stands, so that the answer does not either.
    """
    total = len(order)
    ranked = np.argsort(order, kind="stable")
    rng = np.random.default_rng(0)
    first = np.zeros((total, permutations + 1))
    first[:reference, 0] = 1.0
    for column in range(1, permutations + 1):
        first[ranked[rng.permutation(total)[:reference]], column] = 1.0
    return first


def discrepancies(kernel: Floats, reference: int) -> tuple[float, Floats]:
    """Return the unbiased squared discrepancy of the data, and of each permutation of the rows.

    Parameters
    ----------
    kernel : ndarray, shape (n, n)
        Similarity of each two of the pooled rows, with zeros on the diagonal.
    reference : int
        How many of them, from the first, are the reference.
    """
    current = len(kernel) - reference
    first = memberships(kernel.sum(axis=1), reference)
    product = kernel @ first
    within_first = (first * product).sum(axis=0)
    across = product.sum(axis=0) - within_first
    within_second = kernel.sum() - within_first - 2 * across
    values = (
        within_first / (reference * (reference - 1))
        + within_second / (current * (current - 1))
        - 2 * across / (reference * current)
    )
    return float(values[0]), values[1:]


def tail(observed: float, permuted: Floats) -> float:
    """Return the p-value of a statistic among its permutations.

    When fewer than 10 of them are as extreme as the data, it comes from a Pearson III curve with their mean, variance
    and skewness: control over a stream of windows needs finer p-values than one in a thousand.
    """
    from scipy import stats

    extreme = int((permuted >= observed).sum())
    counted = (extreme + 1) / (len(permuted) + 1)
    if extreme >= COUNTED:
        return counted
    skew = float(stats.skew(permuted))
    fitted = float(stats.pearson3.sf(observed, skew, loc=permuted.mean(), scale=permuted.std()))
    return min(counted, max(fitted, 1e-300)) if np.isfinite(fitted) else counted
