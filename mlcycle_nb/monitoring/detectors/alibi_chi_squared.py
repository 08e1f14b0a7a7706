"""Chi-squared by alibi-detect: categorical columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alibi_detect.cd import ChiSquareDrift

from mlcycle_nb.monitoring.detectors._categories import balanced_v, counts_of, rare_as_one
from mlcycle_nb.monitoring.detectors._contract import Comparison, Floats, Kind
from mlcycle_nb.stats.two_sample import with_exact_tail


@dataclass(frozen=True, slots=True)
class AlibiChiSquared:
    """Effect: Cramer's V for samples of equal size, 0 to 1.

    alibi-detect compares the categories as they are. Where the expected counts are small that raises false
    alarms, so the rare categories go to it as one.
    """

    kind: Kind = "categorical"
    effect_name: str = "Cramer's V of equal sample sizes"
    effect_bound: float = 0.05

    def prepare(self, reference: Floats) -> Floats:
        return reference

    def compare(self, prepared: Floats, current: Floats) -> Comparison:
        effect = balanced_v(counts_of(prepared), counts_of(current))
        before, now = rare_as_one(prepared, current)
        if (before == before[0]).all() and (now == before[0]).all():
            return Comparison(p_value=1.0, effect=effect)
        detector: Any = ChiSquareDrift(before.reshape(-1, 1), x_ref_preprocessed=True)
        p_values, _ = detector.feature_score(detector.x_ref, now.reshape(-1, 1))
        p_value = with_exact_tail(float(p_values[0]), counts_of(prepared), counts_of(current))
        return Comparison(p_value=p_value, effect=effect)


PLUGIN = AlibiChiSquared()
