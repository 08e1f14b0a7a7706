"""Precision: share of answers of a class that are right, averaged over classes or for the positive one."""

from __future__ import annotations

from collections.abc import Mapping

from mlcycle_nb.validation.checks._confusion import AVERAGE, measure_per_class, precision_by_class
from mlcycle_nb.validation.contract import Better, BoundRange, Check, Family, Measurement, Option
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.subject import Subject


class Precision:
    """Bootstrap interval from the confusion matrix, never narrower than Wilson's."""

    name = "precision"
    family: Family = "performance"
    unit = ""
    summary = "share of answers of a class that are right; 1 is best"
    better: Better = "higher"
    bounds: BoundRange | None = BoundRange(low=0.0, high=1.0)
    options: Mapping[str, Option] = AVERAGE

    def measure(self, subject: Subject, gate: Gate) -> Measurement:
        """Measure with 2,000 bootstrap resamples."""
        return measure_per_class(subject, gate, precision_by_class, "fewer false alarms are needed")


PLUGIN: Check = Precision()
