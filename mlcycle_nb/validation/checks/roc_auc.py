"""ROC AUC: the chance that a row of the class scores higher than one that is not of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from mlcycle_nb.stats.bootstrap import bootstrap
from mlcycle_nb.validation.contract import NO_OPTIONS, Better, BoundRange, Check, Family, Measurement, Option
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.subject import Subject

RESAMPLES = 400


class RocAuc:
    """One class against the rest, averaged; two classes give the usual AUC."""

    name = "roc_auc"
    family: Family = "performance"
    unit = ""
    summary = "chance that a row of a class scores above one that is not; 0.5 is guessing, 1 is perfect"
    better: Better = "higher"
    bounds: BoundRange | None = BoundRange(low=0.0, high=1.0)
    options: Mapping[str, Option] = NO_OPTIONS

    def measure(self, subject: Subject, gate: Gate) -> Measurement:
        """Measure with the percentile bootstrap over rows."""
        scores = subject.probabilities
        if scores is None:
            return Measurement(missing="the model gives no probabilities", advice="package it with probabilities")
        if not np.isfinite(scores).all():
            return Measurement(missing="the model gives probabilities that are not finite")
        counts = np.bincount(subject.labels, minlength=len(subject.classes))
        if (counts == 0).any():
            return Measurement(missing=f"no row of class {subject.classes[int(counts.argmin())]} in the data")
        columns = range(1, 2) if len(subject.classes) == 2 else range(len(subject.classes))
        found = bootstrap(
            lambda labels, s: macro_auc(labels, s, list(columns)),
            subject.labels,
            scores,
            confidence=gate.confidence,
            resamples=RESAMPLES,
            seed=subject.seed,
        )
        return Measurement(value=found.value, low=found.low, high=_below_one(found.high, found.value), n=found.n)


def macro_auc(labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float64], columns: list[int]) -> float:
    """Return the mean one-against-rest AUC of `columns`; NaN when a class is absent."""
    values = []
    for column in columns:
        own = labels == column
        positive, negative = int(own.sum()), int((~own).sum())
        if not positive or not negative:
            return float("nan")
        ranks = rankdata(scores[:, column])
        values.append((ranks[own].sum() - positive * (positive + 1) / 2) / (positive * negative))
    return float(np.mean(values))


def _below_one(high: float, value: float) -> float:
    # A resample without one of the classes has no AUC; the metric itself cannot be over 1.
    return max(value, min(high, 1.0))


PLUGIN: Check = RocAuc()
