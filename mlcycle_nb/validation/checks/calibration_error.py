"""Calibration error: how far stated confidence is from the share that is right."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mlcycle_nb.stats.bootstrap import bootstrap
from mlcycle_nb.validation.contract import Better, BoundRange, Check, Family, Measurement, Option
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.subject import Subject


class CalibrationError:
    """Expected calibration error over bins of equal width; biased upwards for few rows, so it errs on the safe side."""

    name = "calibration_error"
    family: Family = "performance"
    unit = ""
    summary = "mean distance between stated confidence and share right; 0 is perfectly calibrated"
    better: Better = "lower"
    bounds: BoundRange | None = BoundRange(low=0.0, high=1.0)
    options: Mapping[str, Option] = {"bins": Option(kind="integer", default=10, low=2, high=100)}

    def measure(self, subject: Subject, gate: Gate) -> Measurement:
        """Measure with the percentile bootstrap over rows."""
        scores = subject.probabilities
        if scores is None:
            return Measurement(missing="the model gives no probabilities", advice="package it with probabilities")
        if not np.isfinite(scores).all():
            return Measurement(missing="the model gives probabilities that are not finite")
        confidence = scores.max(axis=1)
        right = (subject.predicted == subject.labels).astype(np.float64)
        bins = int(gate.options["bins"])
        found = bootstrap(
            lambda stated, seen: expected_error(stated, seen, bins),
            confidence,
            right,
            confidence=gate.confidence,
            resamples=500,
            seed=subject.seed,
        )
        return Measurement(
            value=found.value,
            low=found.low,
            high=found.high,
            n=found.n,
            advice="calibrate the probabilities on rows kept apart, for example by temperature scaling",
        )


def expected_error(stated: npt.NDArray[np.float64], seen: npt.NDArray[np.float64], bins: int) -> float:
    """Return the expected calibration error (Guo et al. 2017)."""
    index = np.clip(np.ceil(stated * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(index, weights=seen - stated, minlength=bins)
    return float(np.abs(gap).sum() / len(stated))


PLUGIN: Check = CalibrationError()
