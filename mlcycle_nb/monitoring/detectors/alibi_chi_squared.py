"""Chi-squared by alibi-detect: categorical columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from alibi_detect.cd import ChiSquareDrift

from mlcycle_nb.monitoring.detectors._categories import balanced_v, counts_of
from mlcycle_nb.monitoring.detectors._contract import Comparison, Floats, Kind
from mlcycle_nb.stats.two_sample import SMALLEST_EXPECTED


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
        before, now = _rare_as_one(prepared, current)
        if (before == before[0]).all() and (now == before[0]).all():
            return Comparison(p_value=1.0, effect=effect)
        detector: Any = ChiSquareDrift(before.reshape(-1, 1), x_ref_preprocessed=True)
        p_values, _ = detector.feature_score(detector.x_ref, now.reshape(-1, 1))
        return Comparison(p_value=float(p_values[0]), effect=effect)


def _rare_as_one(reference: Floats, current: Floats) -> tuple[Floats, Floats]:
    categories, codes = np.unique(np.concatenate([reference, current]), return_inverse=True)
    totals = np.bincount(codes, minlength=len(categories))
    smaller_share = min(len(reference), len(current)) / len(codes)
    rare = totals * smaller_share < SMALLEST_EXPECTED
    merged = np.where(rare, -1, np.arange(len(categories)))
    if rare.any() and totals[rare].sum() * smaller_share < 1.0 and not rare.all():
        # Even together they are too thin a cell: they join the smallest of the others.
        others = np.flatnonzero(~rare)
        merged[others[np.argmin(totals[others])]] = -1
    mapped = merged[codes].astype(np.float64)
    return mapped[: len(reference)], mapped[len(reference) :]


PLUGIN = AlibiChiSquared()
