"""Demographic parity: how unequally the groups get the positive answer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mlcycle_nb.validation.checks._groups import OPTIONS, Counts, measure_difference, rates, spread
from mlcycle_nb.validation.contract import Better, BoundRange, Check, Family, Measurement, Option
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.subject import Subject


class DemographicParityDifference:
    """Fairlearn's demographic parity difference with a bootstrap interval; fails closed on small groups."""

    name = "demographic_parity_difference"
    family: Family = "fairness"
    unit = ""
    summary = "largest difference between groups in the share of positive answers; 0 is equal"
    better: Better = "lower"
    bounds: BoundRange | None = BoundRange(low=0.0, high=1.0)
    options: Mapping[str, Option] = OPTIONS

    def measure(self, subject: Subject, gate: Gate) -> Measurement:
        """Measure over the groups of one grouping."""
        from fairlearn.metrics import demographic_parity_difference

        return measure_difference(
            subject,
            gate,
            difference=selection_difference,
            fairlearn_value=demographic_parity_difference,
            needed=lambda counts: counts.sum(axis=(1, 2)),
            what="rows",
        )


def selection_difference(counts: Counts) -> npt.NDArray[np.float64]:
    """Return the largest difference of selection rates."""
    return spread(rates(counts[:, :, :, 1].sum(axis=2), counts.sum(axis=(2, 3))))


PLUGIN: Check = DemographicParityDifference()
