"""Latency: the 95th percentile of one-row requests, measured through a real replica process."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlcycle_nb.stats.bootstrap import bootstrap
from mlcycle_nb.validation.contract import Better, BoundRange, Check, Family, Measurement, Option
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.subject import Subject


class LatencyP95:
    """Starts a replica of the package, sends one-row requests one after another, and stops it again."""

    name = "latency_p95_ms"
    family: Family = "performance"
    unit = "ms"
    summary = "95th percentile of one-row requests to a replica on this machine, one client"
    better: Better = "lower"
    bounds: BoundRange | None = BoundRange(low=0.0, high=600_000.0)
    options: Mapping[str, Option] = {"requests": Option(kind="integer", default=300, low=1, high=100_000)}

    def measure(self, subject: Subject, gate: Gate) -> Measurement:
        """Measure with the percentile bootstrap over requests."""
        times = np.asarray(subject.time_requests(subject.features, int(gate.options["requests"])), dtype=np.float64)
        if len(times) < 20:
            return Measurement(missing=f"only {len(times)} requests were timed", n=len(times), advice="raise requests")
        found = bootstrap(
            lambda values: float(np.quantile(values, 0.95)),
            times,
            confidence=gate.confidence,
            resamples=1000,
            seed=subject.seed,
        )
        p50, p99 = np.quantile(times, [0.5, 0.99])
        return Measurement(
            value=found.value,
            low=found.low,
            high=found.high,
            n=found.n,
            detail={"p50_ms": round(float(p50), 4), "p99_ms": round(float(p99), 4)},
            advice="measure on a quiet machine of the kind that will serve, or make the model smaller",
        )


PLUGIN: Check = LatencyP95()
