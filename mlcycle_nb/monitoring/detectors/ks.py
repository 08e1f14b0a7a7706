"""Kolmogorov-Smirnov: numeric columns; finds a change of any part of a distribution."""

from __future__ import annotations

from dataclasses import dataclass

from mlcycle_nb.monitoring.detectors._contract import Comparison, Floats, Kind
from mlcycle_nb.stats.two_sample import SortedReference, ks


@dataclass(frozen=True, slots=True)
class KolmogorovSmirnov:
    """Effect: the largest distance between both distribution functions, 0 to 1.

    A shift by a quarter of a standard deviation is a distance of 0.10; the bound of 0.05 is about an eighth.
    """

    kind: Kind = "numeric"
    effect_name: str = "largest distance of distribution functions"
    effect_bound: float = 0.05

    def prepare(self, reference: Floats) -> SortedReference:
        return SortedReference.of(reference)

    def compare(self, prepared: SortedReference, current: Floats) -> Comparison:
        result = ks(prepared, current)
        return Comparison(p_value=result.p_value, effect=result.effect)


PLUGIN = KolmogorovSmirnov()
