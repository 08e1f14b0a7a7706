"""Counts of categories, and one effect size for all detectors of categorical columns."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from mlcycle_nb.monitoring.detectors._contract import Floats

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
