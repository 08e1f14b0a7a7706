"""F1: harmonic mean of precision and recall, averaged over classes or for the positive one."""

from __future__ import annotations

from collections.abc import Mapping

from mlcycle_nb.validation.checks._confusion import AVERAGE, f1_by_class, measure_per_class
from mlcycle_nb.validation.contract import Better, BoundRange, Check, Family, Measurement, Option
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.subject import Subject


class F1:
    """Bootstrap interval from the confusion matrix, never narrower than Wilson's."""

    name = "f1"
    family: Family = "performance"
    unit = ""
    summary = "harmonic mean of precision and recall; 1 is best"
    better: Better = "higher"
    bounds: BoundRange | None = BoundRange(low=0.0, high=1.0)
    options: Mapping[str, Option] = AVERAGE

    def measure(self, subject: Subject, gate: Gate) -> Measurement:
        """Measure with 2,000 bootstrap resamples."""
        return measure_per_class(subject, gate, f1_by_class, "look at precision and recall apart")


PLUGIN: Check = F1()
