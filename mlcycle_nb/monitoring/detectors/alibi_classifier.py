"""Classifier drift by alibi-detect: can a random forest tell rows of the window from rows of the reference?"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from alibi_detect.cd.sklearn.classifier import ClassifierDriftSklearn

from mlcycle_nb.monitoring.detectors._contract import Comparison, Floats, Kind
from mlcycle_nb.monitoring.detectors._permutation import Scale, canonical
from mlcycle_nb.monitoring.detectors._seeded import seeded

_ROWS = 1000
# It remarks, once a window, on options of the forest that nobody set.
logging.getLogger("alibi_detect.cd.sklearn.classifier").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class _Prepared:
    rows: Floats
    scale: Scale


@dataclass(frozen=True, slots=True)
class AlibiClassifier:
    """Effect: largest distance between the forest's scores for rows of the window and of the reference, 0 to 1.

    It learns from one half and is tested on the other. Folds would use each row for the test, but then tests share
    what was learned, and p-values are too small.
    """

    kind: Kind = "joint"
    effect_name: str = "distance of a classifier's scores"
    effect_bound: float = 0.1
    smallest_sample: int = 60

    def prepare(self, reference: Floats) -> _Prepared:
        scale = Scale.of(reference)
        return _Prepared(canonical(scale.apply(reference), _ROWS), scale)

    def compare(self, prepared: _Prepared, current: Floats) -> Comparison:
        from sklearn.ensemble import RandomForestClassifier

        rows = canonical(prepared.scale.apply(current), _ROWS)
        forest = RandomForestClassifier(60, min_samples_leaf=5, class_weight="balanced", random_state=0, n_jobs=1)
        with seeded():
            detector: Any = ClassifierDriftSklearn(
                prepared.rows.astype(np.float32), forest, x_ref_preprocessed=True, train_size=0.5, seed=0
            )
            p_value, distance, *_ = detector.score(rows.astype(np.float32))
        return Comparison(p_value=float(p_value), effect=max(float(distance), 0.0))


PLUGIN = AlibiClassifier()
