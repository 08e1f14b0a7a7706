"""Distributions for people: reference and window in the same few bins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mlcycle_nb.monitoring.detectors._contract import Floats
from mlcycle_nb.monitoring.judge import Column
from mlcycle_nb.monitoring.records import Finding, Shares

BINS = 12
COLUMNS = 4
_RARE = 20


def shares_of(
    findings: Sequence[Finding], reference: Sequence[Column], current: Mapping[tuple[str, str], Floats]
) -> tuple[Shares, ...]:
    """Return the distributions of the first compared columns, of which the most drifted come first."""
    by_key = {(column.family, column.name): column for column in reference}
    found = []
    for finding in findings:
        column, values = by_key.get((finding.family, finding.name)), current.get((finding.family, finding.name))
        if finding.p_value is None or column is None or values is None:
            continue
        found.append(_categories(column, values) if column.kind == "categorical" else _bins(column, values))
        if len(found) == COLUMNS:
            break
    return tuple(found)


def _bins(column: Column, values: Floats) -> Shares:
    both = np.concatenate([column.values, values])
    low, high = (float(edge) for edge in np.quantile(both, [0.001, 0.999]))
    if low == high:
        low, high = float(both.min()), float(both.max())
    edges = np.linspace(low, high, BINS + 1)
    inner = edges[1:-1]  # the outer bins take what lies beyond them
    middles = (edges[1:] + edges[:-1]) / 2
    return Shares(
        name=column.name,
        bins=tuple(f"{middle:.3g}" for middle in middles),
        reference=_share(np.bincount(np.searchsorted(inner, column.values, "right"), minlength=BINS)),
        current=_share(np.bincount(np.searchsorted(inner, values, "right"), minlength=BINS)),
    )


def _categories(column: Column, values: Floats) -> Shares:
    categories = np.unique(np.concatenate([column.values, values]))[:_RARE]
    return Shares(
        name=column.name,
        bins=tuple(f"{category:g}" for category in categories),
        reference=_share(np.array([(column.values == c).sum() for c in categories])),
        current=_share(np.array([(values == c).sum() for c in categories])),
    )


def _share(counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[float, ...]:
    total = max(int(counts.sum()), 1)
    return tuple(round(float(count) / total, 5) for count in counts)
