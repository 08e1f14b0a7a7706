"""Accuracy: the share of rows answered with the true class."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlcycle_nb.stats.bootstrap import wilson
from mlcycle_nb.validation.contract import NO_OPTIONS, Better, BoundRange, Check, Family, Measurement, Option
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.subject import Subject


class Accuracy:
    """Share of right answers, with Wilson's interval."""

    name = "accuracy"
    family: Family = "performance"
    unit = ""
    summary = "share of rows answered with the true class; 1 is all"
    better: Better = "higher"
    bounds: BoundRange | None = BoundRange(low=0.0, high=1.0)
    options: Mapping[str, Option] = NO_OPTIONS

    def measure(self, subject: Subject, gate: Gate) -> Measurement:
        """Count the diagonal of the confusion matrix."""
        table = subject.confusion
        right, n = int(np.trace(table)), int(table.sum())
        interval = wilson(right, n, confidence=gate.confidence)
        wrong = table - np.diag(np.diag(table))
        advice = ""
        if wrong.any():
            true, predicted = np.unravel_index(int(wrong.argmax()), wrong.shape)
            names = subject.classes
            advice = f"most frequent mistake: {names[true]} answered as {names[predicted]} ({wrong.max()} rows)"
        return Measurement(
            value=interval.value, low=interval.low, high=interval.high, n=n, detail={"right": right}, advice=advice
        )


PLUGIN: Check = Accuracy()
