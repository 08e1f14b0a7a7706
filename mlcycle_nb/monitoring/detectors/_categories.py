"""Counts of categories, and one effect size for all detectors of categorical columns."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from mlcycle_nb.monitoring.detectors._contract import Floats
from mlcycle_nb.stats.two_sample import SMALLEST_EXPECTED

Counts = dict[Hashable, int]


def counts_of(codes: Floats) -> Counts:
    """Return how often each code occurs."""
    values, counts = np.unique(codes, return_counts=True)
    return {float(value): int(count) for value, count in zip(values, counts, strict=True)}


def balanced_v(reference: Counts, current: Counts) -> float:
    """Return Cramer's V of both samples as if they were of equal size: 0 is equal shares, 1 nothing in common.

    The plain V shrinks when a small window meets a large reference, so no bound on it would mean the same for two
    sizes of window. For a coin, 0.05 is a change from 50 to 55 percent.
    """
    n, m = sum(reference.values()), sum(current.values())
    total = 0.0
    for category in {*reference, *current}:
        p, q = reference.get(category, 0) / n, current.get(category, 0) / m
        total += (p - q) ** 2 / (p + q)
    return float(np.sqrt(total / 2))


def rare_as_one(reference: Floats, current: Floats) -> tuple[Floats, Floats]:
    """Return both samples with the categories that are too rare for a chi-squared test as one."""
    categories, codes = np.unique(np.concatenate([reference, current]), return_inverse=True)
    totals = np.bincount(codes, minlength=len(categories))
    smaller_share = min(len(reference), len(current)) / len(codes)
    rare = totals * smaller_share < SMALLEST_EXPECTED
    merged = np.where(rare, -1, np.arange(len(categories)))
    if rare.any() and totals[rare].sum() * smaller_share < 1.0 and not rare.all():
        # Even together they are too thin a cell: they join the smallest of the others.
        others = np.flatnonzero(~rare)
        merged[others[np.argmin(totals[others])]] = -1
    mapped = merged[codes].astype(np.float64)
    return mapped[: len(reference)], mapped[len(reference) :]
