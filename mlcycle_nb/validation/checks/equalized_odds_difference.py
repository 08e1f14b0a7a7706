"""Equalized odds: how unequally the groups get true and false positive answers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mlcycle_nb.validation.checks._groups import OPTIONS, Counts, measure_difference, rates, spread
from mlcycle_nb.validation.contract import Better, BoundRange, Check, Family, Measurement, Option
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.subject import Subject


class EqualizedOddsDifference:
    """Fairlearn's equalized odds difference with a bootstrap interval; fails closed on small groups."""

    name = "equalized_odds_difference"
    family: Family = "fairness"
    unit = ""
    summary = "larger of the differences between groups in true and in false positive rate; 0 is equal"
    better: Better = "lower"
    bounds: BoundRange | None = BoundRange(low=0.0, high=1.0)
    options: Mapping[str, Option] = OPTIONS

    def measure(self, subject: Subject, gate: Gate) -> Measurement:
        """Measure over the groups of one grouping; each needs enough rows of both true classes."""
        from fairlearn.metrics import equalized_odds_difference

        return measure_difference(
            subject,
            gate,
            difference=odds_difference,
            fairlearn_value=equalized_odds_difference,
            needed=lambda counts: counts.sum(axis=2).min(axis=1),
            what="rows of the rarer true class",
        )


def odds_difference(counts: Counts) -> npt.NDArray[np.float64]:
    """Return the larger of the spreads of true and of false positive rates."""
    by_truth = rates(counts[:, :, :, 1], counts.sum(axis=3))
    return np.maximum(spread(by_truth[:, :, 1]), spread(by_truth[:, :, 0]))


PLUGIN: Check = EqualizedOddsDifference()
