"""Noise robustness: how much accuracy is lost when each feature is disturbed a little."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlcycle_nb.stats.bootstrap import bootstrap_counts, wilson_bounds
from mlcycle_nb.validation.contract import Better, BoundRange, Check, Family, Measurement, Option
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.subject import Subject


class NoiseRobustness:
    """Gaussian noise of `sigma` standard deviations of each feature; the drop in accuracy, paired by row."""

    name = "noise_robustness"
    family: Family = "robustness"
    unit = ""
    summary = "accuracy lost under Gaussian noise in units of each feature's standard deviation; 0 is none"
    better: Better = "lower"
    bounds: BoundRange | None = BoundRange(low=0.0, high=1.0)
    options: Mapping[str, Option] = {"sigma": Option(kind="number", default=0.1, low=1e-6, high=10.0)}

    def measure(self, subject: Subject, gate: Gate) -> Measurement:
        """Compare right answers with and without noise, row by row."""
        rows = subject.features
        if rows.dtype.kind != "f":
            return Measurement(
                missing="noise needs numeric features that are not whole numbers", advice="remove the gate"
            )
        scale_from = rows if subject.data.train_features is None else subject.as_input(subject.data.train_features)
        spread = scale_from.astype(np.float64).std(axis=0)
        if not (spread > 0).any():
            return Measurement(missing="no feature varies, so there is no scale for the noise")
        sigma = float(gate.options["sigma"])
        noise = subject.rng(1).normal(size=rows.shape) * spread * sigma
        noisy_rows = _kept_in_range(subject, rows + noise)
        clean = subject.predicted == subject.labels
        noisy = subject.label_of(subject.predict(noisy_rows)) == subject.labels
        counts = np.array(
            [[(clean == a).astype(int) @ (noisy == b).astype(int) for b in (False, True)] for a in (False, True)]
        )
        n = len(clean)
        found = bootstrap_counts(
            lambda c: (c[:, 1, 0] - c[:, 0, 1]) / n, counts, confidence=gate.confidence, seed=subject.seed
        )
        # Rows that change are rare: their share, by Wilson, bounds the drop when the bootstrap sees no spread.
        lost = wilson_bounds(counts[1, 0] / n, n, confidence=gate.confidence)
        won = wilson_bounds(counts[0, 1] / n, n, confidence=gate.confidence)
        quiet = counts[1, 0] + counts[0, 1] < 10
        return Measurement(
            value=found.value,
            low=min(found.low, lost[0] - won[1]) if quiet else found.low,
            high=max(found.high, lost[1] - won[0]) if quiet else found.high,
            n=n,
            detail={
                "accuracy": round(float(clean.mean()), 6),
                "accuracy_with_noise": round(float(noisy.mean()), 6),
                "sigma": sigma,
            },
            advice="train with noise of this size added, or with more regularisation",
        )


def _kept_in_range(subject: Subject, rows: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    spec = subject.package.signature.inputs[0]
    if spec.low is not None or spec.high is not None:
        rows = np.clip(rows, spec.low, spec.high)
    return np.ascontiguousarray(rows, dtype=spec.numpy_name)


PLUGIN: Check = NoiseRobustness()
