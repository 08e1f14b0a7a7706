"""Kolmogorov-Smirnov by alibi-detect: numeric columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alibi_detect.cd import KSDrift

from mlcycle_nb.monitoring.detectors._contract import Comparison, Floats, Kind


@dataclass(frozen=True, slots=True)
class AlibiKolmogorovSmirnov:
    """Effect: the largest distance between both distribution functions, 0 to 1."""

    kind: Kind = "numeric"
    effect_name: str = "largest distance of distribution functions"
    effect_bound: float = 0.05

    def prepare(self, reference: Floats) -> Any:
        # `x_ref_preprocessed` keeps alibi-detect from copying the reference for each window.
        return KSDrift(reference.reshape(-1, 1), x_ref_preprocessed=True)

    def compare(self, prepared: Any, current: Floats) -> Comparison:
        p_values, distances = prepared.feature_score(prepared.x_ref, current.reshape(-1, 1))
        return Comparison(p_value=float(p_values[0]), effect=float(distances[0]))


PLUGIN = AlibiKolmogorovSmirnov()
