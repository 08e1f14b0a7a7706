"""Spot the difference by alibi-detect: learns in which direction rows of the window lie from the reference's mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from alibi_detect.cd.pytorch.spot_the_diff import SpotTheDiffDriftTorch

from mlcycle_nb.monitoring.detectors._contract import Comparison, Floats, Kind
from mlcycle_nb.monitoring.detectors._permutation import Scale, canonical
from mlcycle_nb.monitoring.detectors._seeded import seeded

_ROWS = 500


@dataclass(frozen=True, slots=True)
class _Prepared:
    rows: Floats
    scale: Scale


@dataclass(frozen=True, slots=True)
class AlibiSpotTheDiff:
    """Effect: largest distance between the learned scores of rows of the window and of the reference, 0 to 1."""

    kind: Kind = "joint"
    effect_name: str = "distance of a classifier's scores"
    effect_bound: float = 0.1
    smallest_sample: int = 60

    def prepare(self, reference: Floats) -> _Prepared:
        scale = Scale.of(reference)
        return _Prepared(canonical(scale.apply(reference), _ROWS), scale)

    def compare(self, prepared: _Prepared, current: Floats) -> Comparison:
        rows = canonical(prepared.scale.apply(current), _ROWS)
        with seeded():
            detector: Any = SpotTheDiffDriftTorch(
                prepared.rows.astype(np.float32),
                x_ref_preprocessed=True,
                train_size=0.5,
                n_diffs=1,
                l1_reg=1e-3,
                learning_rate=0.1,
                batch_size=64,
                epochs=20,
                seed=0,
                device="cpu",
            )
            p_value, distance, *_ = detector._detector.score(rows.astype(np.float32))
        return Comparison(p_value=float(p_value), effect=max(float(distance), 0.0))


PLUGIN = AlibiSpotTheDiff()
