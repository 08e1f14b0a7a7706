"""Log loss: how surprised the model is by the truth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlcycle_nb.stats.bootstrap import mean_interval
from mlcycle_nb.validation.contract import NO_OPTIONS, Better, BoundRange, Check, Family, Measurement, Option
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.subject import Subject


class LogLoss:
    """Mean negative log probability of the true class, with the bootstrap interval of a mean."""

    name = "log_loss"
    family: Family = "performance"
    unit = "nats"
    summary = "mean negative log probability of the true class; 0 is certain and right"
    better: Better = "lower"
    bounds: BoundRange | None = BoundRange(low=0.0, high=100.0)
    options: Mapping[str, Option] = NO_OPTIONS

    def measure(self, subject: Subject, gate: Gate) -> Measurement:
        """Measure over all rows; probabilities are scaled to sum to one, as scikit-learn does."""
        scores = subject.probabilities
        if scores is None:
            return Measurement(missing="the model gives no probabilities", advice="package it with probabilities")
        if not np.isfinite(scores).all() or (scores < 0).any() or (scores.sum(axis=1) <= 0).any():
            return Measurement(missing="the model's probabilities are not finite and positive")
        scaled = scores / scores.sum(axis=1, keepdims=True)
        true = np.clip(scaled[np.arange(len(scaled)), subject.labels], np.finfo(np.float32).eps, 1.0)
        found = mean_interval(-np.log(true), confidence=gate.confidence, seed=subject.seed)
        return Measurement(
            value=found.value, low=found.low, high=found.high, n=found.n, advice="calibrate the probabilities"
        )


PLUGIN: Check = LogLoss()
