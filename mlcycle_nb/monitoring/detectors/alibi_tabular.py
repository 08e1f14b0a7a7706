"""Tabular drift by alibi-detect: one detector for numeric and for categorical columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alibi_detect.cd import TabularDrift

from mlcycle_nb.monitoring.detectors._categories import balanced_v, counts_of, rare_as_one
from mlcycle_nb.monitoring.detectors._contract import Comparison, Floats, Kind
from mlcycle_nb.stats.two_sample import with_exact_tail


@dataclass(frozen=True, slots=True)
class _Numeric:
    kind: Kind = "numeric"
    effect_name: str = "largest distance of distribution functions"
    effect_bound: float = 0.05

    def prepare(self, reference: Floats) -> Any:
        # No category is said in so many words, because alibi-detect warns when it is told of none.
        return TabularDrift(reference.reshape(-1, 1), categories_per_feature={}, x_ref_preprocessed=True)

    def compare(self, prepared: Any, current: Floats) -> Comparison:
        p_values, distances = prepared.feature_score(prepared.x_ref, current.reshape(-1, 1))
        return Comparison(p_value=float(p_values[0]), effect=float(distances[0]))


@dataclass(frozen=True, slots=True)
class _Categorical:
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
        detector: Any = TabularDrift(before.reshape(-1, 1), categories_per_feature={0: None}, x_ref_preprocessed=True)
        p_values, _ = detector.feature_score(detector.x_ref, now.reshape(-1, 1))
        p_value = with_exact_tail(float(p_values[0]), counts_of(prepared), counts_of(current))
        return Comparison(p_value=p_value, effect=effect)


@dataclass(frozen=True, slots=True)
class AlibiTabular:
    """Kolmogorov-Smirnov for numeric and chi-squared for categorical columns."""

    kind: Kind = "tabular"
    parts: Mapping[str, Any] = field(default_factory=lambda: {"numeric": _Numeric(), "categorical": _Categorical()})


PLUGIN = AlibiTabular()
