"""Logs what a replica answered, off its event loop: a bounded ring, a thread, Arrow segments.

Serving never waits for it. A full ring drops its oldest batch and counts the rows. The event loop hands arrays over;
the thread encodes them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import zlib
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.files import private_folder, write_atomically
from mlcycle_nb.serving import prediction_segments as segments
from mlcycle_nb.serving.batching import Call
from mlcycle_nb.serving.prediction_reader import copy_totals, log_totals, read_predictions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from mlcycle_nb.serving.batching import Batch

__all__ = ["LoggedBatch", "PredictionLogWriter", "copy_totals", "log_totals", "read_predictions"]

FLUSH_SECONDS = 0.5
COMPACT_SECONDS = 30.0
COMPACT_SEGMENTS = 60
COMPACT_TIMEOUT_SECONDS = 60.0
RING_ROWS = 50_000
RING_BYTES = 32 * 1_048_576


class LoggedBatch(NamedTuple):
    """One run of the model, as it waits in the ring."""

    time_ns: int
    calls: list[Call]
    inputs: NDArray[np.generic]
    outputs: Mapping[str, NDArray[np.generic]]


class PredictionLogWriter:
    """Writes the predictions of one replica.

    Parameters
    ----------
    root : Path
        Folder of all prediction logs of a workspace.
    environment, model, version
        Where among them this log is.
    sample_rate : float
        Share of the requests that is kept; which ones depends on the prediction id alone.
    ring_rows, ring_bytes : int
        Bounds of what waits to be written.
    flush_seconds, compact_seconds : float
        How long rows wait at most, and how often old segments are merged.
    """

    def __init__(
        self,
        root: Path,
        environment: str,
        model: str,
        version: int,
        *,
        sample_rate: float = 1.0,
        ring_rows: int = RING_ROWS,
        ring_bytes: int = RING_BYTES,
        flush_seconds: float = FLUSH_SECONDS,
        compact_seconds: float = COMPACT_SECONDS,
    ) -> None:
        self.folder = segments.version_folder(root, environment, model, version)
        self.version = version
        self.written_rows = 0
        self.write_errors = 0
        self.segments = 0
        self._sample_bound = int(sample_rate * 2**32)
        self._ring: deque[LoggedBatch] = deque()
        self._ring_rows = ring_rows
        self._ring_bytes = ring_bytes
        # Each of these has one writer: appended and dropped the event loop, taken the log thread.
        self._appended = [0, 0]
        self._taken = [0, 0]
        self._dropped = [0, 0]
        self._lost_rows = 0
        self._flush_seconds = flush_seconds
        self._compact_seconds = compact_seconds
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._last_error = ""
        self._merged_at = 0
        self.copies: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self._told_copies = (0, 0)
        self._stats_name = f"stats-{os.getpid()}-{time.time_ns()}.json"

    @property
    def dropped_rows(self) -> int:
        """Rows lost: pushed out of a full ring, or in a segment that could not be written."""
        return self._dropped[0] + self._lost_rows

    def warm(self, inputs: NDArray[np.generic], outputs: Mapping[str, NDArray[np.generic]]) -> None:
        """Import Arrow and encode one batch into nothing, so that no request waits while the log thread does."""
        import pyarrow as pa

        # Arrow's own allocator keeps what it once had; segments are small and short-lived.
        pa.set_memory_pool(pa.system_memory_pool())
        call = Call(inputs, "warm", "", False, 0.0)
        table = segments.to_table([LoggedBatch(time.time_ns(), [call], inputs, outputs)], self.version)
        segments.encode(table, pa.BufferOutputStream())

    def start(self) -> None:
        """Start the log thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="prediction-log", daemon=True)
            self._thread.start()

    def append(self, batch: Batch) -> None:
        """Hand a batch over; drops the oldest when the ring is full. Called by the event loop only."""
        inputs = batch.inputs
        rows, size = len(inputs), inputs.nbytes
        while self._waiting(0) + rows > self._ring_rows or self._waiting(1) + size > self._ring_bytes:
            try:
                oldest = self._ring.popleft()
            except IndexError:
                break
            self._dropped[0] += len(oldest.inputs)
            self._dropped[1] += oldest.inputs.nbytes
        self._ring.append(LoggedBatch(time.time_ns(), batch.calls, inputs, batch.outputs))
        self._appended[0] += rows
        self._appended[1] += size
        if self._waiting(0) * 4 > self._ring_rows or self._waiting(1) * 4 > self._ring_bytes:
            self._wake.set()

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Write what waits, then stop the thread."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_seconds)
            self._thread = None

    def _waiting(self, what: int) -> int:
        return self._appended[what] - self._taken[what] - self._dropped[what]

    def _work(self) -> None:
        compact_due = time.monotonic() + self._compact_seconds
        while True:
            self._wake.wait(self._flush_seconds)
            self._wake.clear()
            closing = self._closing
            self._flush()
            if closing:
                return
            if time.monotonic() >= compact_due:
                if self.segments - self._merged_at >= COMPACT_SEGMENTS:
                    self._compact()
                    self._merged_at = self.segments
                compact_due = time.monotonic() + self._compact_seconds

    def _flush(self) -> None:
        batches = []
        while True:
            try:
                batch = self._ring.popleft()
            except IndexError:
                break
            self._taken[0] += len(batch.inputs)
            self._taken[1] += batch.inputs.nbytes
            batches.append(batch)
        if not batches:
            self._tell_copies()
            return
        kept = batches if self._sample_bound >= 2**32 else [self._sampled(batch) for batch in batches]
        rows = sum(len(batch.inputs) for batch in kept)
        try:
            private_folder(self.folder)
            if rows:
                segments.write_segment(self.folder, kept, self.version)
                self.segments += 1
                self.written_rows += rows
            self._write_stats()
        except (OSError, MLCycleError, ValueError, TypeError) as failure:
            # A disk that is full or gone must not end the thread: the rows count as lost, the next flush tries again.
            self.write_errors += 1
            self._lost_rows += rows
            self._last_error = str(failure)[:200]

    def _tell_copies(self) -> None:
        """Write the counts when there are copies but no answer: a version that fails on all of them is heard too."""
        if self.copies() == self._told_copies:
            return
        try:
            private_folder(self.folder)
            self._write_stats()
        except (OSError, MLCycleError) as failure:
            self._last_error = str(failure)[:200]

    def _sampled(self, batch: LoggedBatch) -> LoggedBatch:
        import numpy as np

        chosen = [zlib.crc32(call.prediction_id.encode()) < self._sample_bound for call in batch.calls]
        mask = np.repeat(np.asarray(chosen), [call.rows for call in batch.calls])
        calls = [call for call, keep in zip(batch.calls, chosen, strict=True) if keep]
        outputs = {name: array[mask] for name, array in batch.outputs.items()}
        return LoggedBatch(batch.time_ns, calls, batch.inputs[mask], outputs)

    def _write_stats(self) -> None:
        copies = self.copies()
        form: dict[str, Any] = {
            "pid": os.getpid(),
            "written_rows": self.written_rows,
            "dropped_rows": self.dropped_rows,
            "write_errors": self.write_errors,
            "segments": self.segments,
            "mirrored_requests": copies[0],
            "mirrored_failures": copies[1],
            "last_error": self._last_error,
            "flushed_at_ns": time.time_ns(),
        }
        write_atomically(self.folder / self._stats_name, json.dumps(form), durable=False)
        self._told_copies = copies

    def _compact(self) -> None:
        # In a process of its own, with low priority: merging would cost the replica memory and its event loop time.
        argv = [sys.executable, "-m", "mlcycle_nb.serving.prediction_compaction", str(self.folder)]
        try:
            subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=COMPACT_TIMEOUT_SECONDS, check=True)
        except (OSError, subprocess.SubprocessError) as failure:
            self.write_errors += 1
            self._last_error = str(failure)[:200]
