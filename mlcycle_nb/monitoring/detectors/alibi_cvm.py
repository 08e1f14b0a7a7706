"""Cramer-von Mises by alibi-detect: numeric columns; weighs whole distributions, where KS sees the largest gap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from alibi_detect.cd import CVMDrift

from mlcycle_nb.monitoring.detectors._contract import Comparison, Floats, Kind


@dataclass(frozen=True, slots=True)
class AlibiCramerVonMises:
    """Effect: root mean square distance of both distribution functions without what chance adds, 0 to 0.58.

    A shift by an eighth of a standard deviation is 0.038.
    """

    kind: Kind = "numeric"
    effect_name: str = "root mean square distance of distribution functions"
    effect_bound: float = 0.04

    def prepare(self, reference: Floats) -> Any:
        return CVMDrift(reference.reshape(-1, 1), x_ref_preprocessed=True)

    def compare(self, prepared: Any, current: Floats) -> Comparison:
        p_values, statistics = prepared.feature_score(prepared.x_ref, current.reshape(-1, 1))
        n, m = len(prepared.x_ref), len(current)
        by_chance = (1 + 1 / (n + m)) / 6
        share = max(float(statistics[0]) - by_chance, 0.0) * (n + m) / (n * m)
        return Comparison(p_value=float(p_values[0]), effect=float(np.sqrt(share)))


PLUGIN = AlibiCramerVonMises()
