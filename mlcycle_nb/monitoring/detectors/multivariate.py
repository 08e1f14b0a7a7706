"""Energy distance: all numeric columns at once, so that it sees changed dependence between them too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlcycle_nb.monitoring.detectors._contract import Comparison, Floats, Kind
from mlcycle_nb.monitoring.detectors._permutation import Scale, canonical, discrepancies, tail


@dataclass(frozen=True, slots=True)
class _Prepared:
    rows: Floats
    scale: Scale


@dataclass(frozen=True, slots=True)
class EnergyDistance:
    """Effect: root of the energy coefficient of inhomogeneity, 0 (equal) to 1 (nothing in common).

    A permutation test over at most 500 rows of each side, in standard deviations of the reference. A shift of all
    columns by an eighth of a standard deviation is about 0.05.

    References
    ----------
    Székely, Rizzo (2013). Energy statistics: a class of statistics based on distances. J. Stat. Plan. Inference 143.
    """

    kind: Kind = "joint"
    effect_name: str = "root of the energy coefficient"
    effect_bound: float = 0.05

    def prepare(self, reference: Floats) -> _Prepared:
        scale = Scale.of(reference)
        return _Prepared(canonical(scale.apply(reference)), scale)

    def compare(self, prepared: _Prepared, current: Floats) -> Comparison:
        rows = canonical(prepared.scale.apply(current))
        pooled = np.concatenate([prepared.rows, rows])
        distances = _distances(pooled)
        observed, permuted = discrepancies(-distances, len(prepared.rows))
        across = float(distances[: len(prepared.rows), len(prepared.rows) :].mean())
        share = observed / (2 * across) if across > 0 else 0.0
        return Comparison(p_value=tail(observed, permuted), effect=float(np.sqrt(min(max(share, 0.0), 1.0))))


def _distances(rows: Floats) -> Floats:
    squares = (rows**2).sum(axis=1)
    squared = np.maximum(squares[:, None] + squares[None, :] - 2 * rows @ rows.T, 0.0)
    np.fill_diagonal(squared, 0.0)
    distances: Floats = np.sqrt(squared)
    return distances


PLUGIN = EnergyDistance()
