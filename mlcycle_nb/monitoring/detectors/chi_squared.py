"""Chi-squared: categorical columns; a category that the reference never had counts too."""

from __future__ import annotations

from dataclasses import dataclass

from mlcycle_nb.monitoring.detectors._categories import Counts, balanced_v, counts_of
from mlcycle_nb.monitoring.detectors._contract import Comparison, Floats, Kind
from mlcycle_nb.stats.two_sample import chi_squared, with_exact_tail


@dataclass(frozen=True, slots=True)
class ChiSquared:
    """Effect: Cramer's V for samples of equal size, 0 to 1."""

    kind: Kind = "categorical"
    effect_name: str = "Cramer's V of equal sample sizes"
    effect_bound: float = 0.05

    def prepare(self, reference: Floats) -> Counts:
        return counts_of(reference)

    def compare(self, prepared: Counts, current: Floats) -> Comparison:
        now = counts_of(current)
        p_value = with_exact_tail(chi_squared(prepared, now).p_value, prepared, now)
        return Comparison(p_value=p_value, effect=balanced_v(prepared, now))


PLUGIN = ChiSquared()
