"""Rows that depend on one another: every test here takes them for independent, so it has to be said."""

from __future__ import annotations

import math

import numpy as np

from mlcycle_nb.monitoring.detectors._contract import Floats

SMALLEST_CORRELATION = 0.2
ALPHA = 0.01


def dependence(values: Floats, *, tests: int = 1) -> str:
    """Return a remark when neighbouring rows are more alike than chance makes them, or the empty text.

    The remark says how many independent rows the window is worth, by the first-order correlation.

    Parameters
    ----------
    values : ndarray, shape (n,) or (n, d)
        In stored order; of several columns, the one whose rows are most alike is told.
    tests : int
        How many columns of the window are looked at: chance finds the largest of many.
    """
    from scipy import stats

    n = len(values)
    columns = values.reshape(n, -1)
    if n < 20:
        return ""
    found = max((_lag_one(columns[:, position]) for position in range(columns.shape[1])), default=0.0)
    # Without dependence it is about normal with mean -1/n and variance 1/n.
    least = float(stats.norm.isf(ALPHA / max(tests * columns.shape[1], 1))) / math.sqrt(n) - 1 / n
    if found < max(least, SMALLEST_CORRELATION):
        return ""
    worth = max(2, round(n * (1 - found) / (1 + found)))
    return f"rows depend on one another (correlation of neighbours {found:.2f}): {n} rows are worth about {worth}"


def _lag_one(values: Floats) -> float:
    # Ranks: one outlier would else hide any dependence.
    from scipy import stats

    if (values == values[0]).all():
        return 0.0
    ranks = stats.rankdata(values)
    ranks = ranks - ranks.mean()
    return float((ranks[1:] * ranks[:-1]).sum() / np.square(ranks).sum())
