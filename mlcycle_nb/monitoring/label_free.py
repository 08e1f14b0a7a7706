"""Accuracy without labels: the confidence of a window, read through what the reference's labels say about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mlcycle_nb.monitoring.detectors._contract import SMALLEST_SAMPLE, Floats
from mlcycle_nb.monitoring.judge import PREDICTION, Column
from mlcycle_nb.monitoring.records import Estimated
from mlcycle_nb.stats.calibration import Calibration, calibrate, estimate

if TYPE_CHECKING:
    from mlcycle_nb.packages import Package


class LabelFree:
    """What a version's reference window allows: estimates for windows of traffic, or a reason why there are none.

    Parameters
    ----------
    package : Package
        Of a classifier with a labelled reference window; any other gives no estimate.
    reference : sequence of Column
        The reference window's columns, with the model's confidence on it.
    """

    def __init__(self, package: Package, reference: Sequence[Column]) -> None:
        self._applies = package.task == "classification"
        self._calibration: Calibration | None = None
        self._why = ""
        if self._applies:
            self._calibration, self._why = _learn(package, reference)

    def estimate(self, confidence: Floats | None) -> Estimated | None:
        """Return the estimate for a window, None for a model that is no classifier."""
        if not self._applies:
            return None
        if self._calibration is None:
            return Estimated(why=self._why)
        usable = np.empty(0) if confidence is None else confidence[np.isfinite(confidence)]
        if len(usable) < SMALLEST_SAMPLE:
            return Estimated(why=f"{len(usable)} rows of the window have a confidence, under {SMALLEST_SAMPLE}")
        found = estimate(self._calibration, usable)
        return Estimated(value=round(found.value, 6), low=round(found.low, 6), high=round(found.high, 6))


def _learn(package: Package, reference: Sequence[Column]) -> tuple[Calibration | None, str]:
    confidence = next((one.values for one in reference if (one.family, one.name) == (PREDICTION, "confidence")), None)
    if confidence is None:
        return None, "not calibrated: the reference window has no confidence of this model"
    table = package.reference()
    if "label" not in table.column_names or "prediction" not in table.column_names:
        return None, "not calibrated: the reference window has no labels"
    try:
        truth = np.asarray(table["label"].to_pylist(), dtype=np.float64)
        said = np.asarray(table["prediction"].to_pylist(), dtype=np.float64)
    except (TypeError, ValueError):
        return None, "not calibrated: the reference window's labels are no class indices"
    if truth.shape != confidence.shape or said.shape != confidence.shape:
        return None, "not calibrated: the reference window's labels do not belong to its rows"
    known = np.isfinite(truth) & np.isfinite(said)
    return calibrate(confidence[known], truth[known] == said[known])
