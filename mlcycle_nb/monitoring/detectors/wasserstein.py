"""Wasserstein distance: numeric columns; says how far values moved, in standard deviations of the reference."""

from __future__ import annotations

from dataclasses import dataclass

from mlcycle_nb.monitoring.detectors._contract import Comparison, Floats, Kind
from mlcycle_nb.stats.two_sample import SortedReference, ks, wasserstein_effect

_INFINITE = 1e9


@dataclass(frozen=True, slots=True)
class Wasserstein:
    """Effect: mean distance that values moved, in standard deviations of the reference; 0.1 is a tenth of one.

    A distance is no test, so the p-value is that of the Kolmogorov-Smirnov test on the same samples.
    """

    kind: Kind = "numeric"
    effect_name: str = "Wasserstein distance in standard deviations"
    effect_bound: float = 0.1

    def prepare(self, reference: Floats) -> SortedReference:
        return SortedReference.of(reference)

    def compare(self, prepared: SortedReference, current: Floats) -> Comparison:
        # Against a reference without spread any move is infinitely many of its standard deviations.
        effect = min(wasserstein_effect(prepared, current), _INFINITE)
        return Comparison(p_value=ks(prepared, current).p_value, effect=effect)


PLUGIN = Wasserstein()
