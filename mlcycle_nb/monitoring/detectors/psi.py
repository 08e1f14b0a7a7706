"""Population stability index: numeric columns, over the ten quantile bins of the reference."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from mlcycle_nb.monitoring.detectors._contract import Comparison, Floats, Kind
from mlcycle_nb.stats.two_sample import chi_squared, psi_categories

BINS = 10


@dataclass(frozen=True, slots=True)
class _Binned:
    edges: Floats
    counts: dict[Hashable, int]


@dataclass(frozen=True, slots=True)
class StabilityIndex:
    """Effect: the index itself; by long practice under 0.1 is stable and over 0.25 a large change.

    The index is no test, so the p-value is that of chi-squared over the same bins.
    """

    kind: Kind = "numeric"
    effect_name: str = "population stability index"
    effect_bound: float = 0.1

    def prepare(self, reference: Floats) -> _Binned:
        edges = np.unique(np.quantile(reference, np.linspace(0, 1, BINS + 1)[1:-1]))
        return _Binned(edges, _counts(edges, reference))

    def compare(self, prepared: _Binned, current: Floats) -> Comparison:
        now = _counts(prepared.edges, current)
        p_value = chi_squared(prepared.counts, now).p_value
        return Comparison(p_value=p_value, effect=psi_categories(prepared.counts, now))


def _counts(edges: Floats, values: Floats) -> dict[Hashable, int]:
    bins = np.bincount(np.searchsorted(edges, values, "left"), minlength=len(edges) + 1)
    return {position: int(count) for position, count in enumerate(bins)}


PLUGIN = StabilityIndex()
