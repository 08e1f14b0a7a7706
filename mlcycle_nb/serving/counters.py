"""Counts of one replica, and their Prometheus text."""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlcycle_nb.serving.prediction_log import PredictionLogWriter

LATENCY_BOUNDS_MS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0)
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Histogram:
    """Counts in fixed bounds; the last one has none."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str, labels: str) -> list[str]:
        """Return the Prometheus lines."""
        lines, running = [], 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            running += count
            lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {running}')
        return [*lines, f"{name}_sum{{{labels}}} {self.total:.6f}", f"{name}_count{{{labels}}} {running}"]


class Counters:
    """All counts of a replica; written by the event loop only."""

    def __init__(self, *, model: str, version: str, environment: str) -> None:
        self.labels = f'model="{model}",version="{version}",environment="{environment}"'
        self.started = time.time()
        self.responses: dict[int, int] = {}
        self.refusals: dict[str, int] = {}
        self.rows = 0
        self.mirrored_requests = 0
        self.mirrored_failures = 0
        self.output_invalid = 0
        self.model_errors = 0
        self.model_seconds = 0.0
        self.latency_ms = Histogram(LATENCY_BOUNDS_MS)
        self.batch_rows = Histogram(BATCH_BOUNDS)

    def respond(self, status: int) -> None:
        """Count one answer."""
        self.responses[status] = self.responses.get(status, 0) + 1

    def refuse(self, reason: str) -> None:
        """Count one problem by its reason."""
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    def count_copy(self, *, failed: bool) -> None:
        """Count one mirrored request that has ended; both counts move at once, so that none misses its failure."""
        self.mirrored_requests += 1
        self.mirrored_failures += failed

    def copies(self) -> tuple[int, int]:
        """Return mirrored requests that have ended, and those of them that got no answer from the model."""
        failures = self.mirrored_failures  # first: another thread reads, and there are never more than requests
        return self.mirrored_requests, failures

    def text(self, queued_rows: int, log: PredictionLogWriter | None) -> bytes:
        """Return everything in the Prometheus text format."""
        labels = self.labels
        lines = _family("mlcycle_replica_responses_total", "counter", "Answers by HTTP status.")
        lines += [
            f'mlcycle_replica_responses_total{{{labels},status="{status}"}} {count}'
            for status, count in sorted(self.responses.items())
        ]
        lines += _family("mlcycle_replica_problems_total", "counter", "Requests that ended without a prediction.")
        lines += [
            f'mlcycle_replica_problems_total{{{labels},reason="{reason}"}} {count}'
            for reason, count in sorted(self.refusals.items())
        ]
        for name, kind, text, value in (
            ("mlcycle_replica_rows_total", "counter", "Rows predicted.", self.rows),
            (
                "mlcycle_replica_mirrored_requests_total",
                "counter",
                "Mirrored requests that ended.",
                self.mirrored_requests,
            ),
            (
                "mlcycle_replica_mirrored_failures_total",
                "counter",
                "Of these, without an answer.",
                self.mirrored_failures,
            ),
            ("mlcycle_replica_output_invalid_total", "counter", "Answers refused as unusable.", self.output_invalid),
            ("mlcycle_replica_model_errors_total", "counter", "Batches in which the model failed.", self.model_errors),
            ("mlcycle_replica_model_seconds_total", "counter", "Time in the model.", f"{self.model_seconds:.6f}"),
            ("mlcycle_replica_queued_rows", "gauge", "Rows waiting for the model.", queued_rows),
            ("mlcycle_replica_memory_bytes", "gauge", "Resident memory.", _resident_bytes()),
            ("mlcycle_replica_cpu_seconds_total", "counter", "CPU time of the process.", f"{time.process_time():.3f}"),
            ("mlcycle_replica_start_time_seconds", "gauge", "When the replica started.", f"{self.started:.3f}"),
        ):
            lines += [*_family(name, kind, text), f"{name}{{{labels}}} {value}"]
        if log is not None:
            for name, text, count in (
                ("mlcycle_prediction_log_written_rows_total", "Rows in closed segments.", log.written_rows),
                (
                    "mlcycle_prediction_log_dropped_rows_total",
                    "Rows lost to a full ring.",
                    log.dropped_rows,
                ),
                ("mlcycle_prediction_log_write_errors_total", "Segments that could not be written.", log.write_errors),
            ):
                lines += [*_family(name, "counter", text), f"{name}{{{labels}}} {count}"]
        lines += _family("mlcycle_replica_latency_ms", "histogram", "Request to answer, milliseconds.")
        lines += self.latency_ms.lines("mlcycle_replica_latency_ms", labels)
        lines += _family("mlcycle_replica_batch_rows", "histogram", "Rows the model took at once.")
        lines += self.batch_rows.lines("mlcycle_replica_batch_rows", labels)
        return ("\n".join(lines) + "\n").encode()


def _family(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
