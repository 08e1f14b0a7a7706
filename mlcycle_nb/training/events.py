"""What workers tell: JSON lines, one file a rank, appended by the worker and read by anybody.

Steps are buffered and written a few times a second, and always before a checkpoint is taken: whatever a crash
swallows lies after the newest checkpoint and is run again.
"""

from __future__ import annotations

import heapq
import json
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FLUSH_SECONDS = 0.2
_FLUSH_ROWS = 512
_MEMORY_SECONDS = 1.0
_KEPT_BYTES = 67_108_864
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_READ_LIMIT_BYTES = 4_194_304


class EventWriter:
    """Appends the events of one rank in one attempt.

    When the disk refuses, events are kept in memory and offered again at each flush, so that training goes on over a
    disk that is full for a while.
    """

    def __init__(self, path: Path, *, rank: int, attempt: int) -> None:
        self.rank = rank
        self.attempt = attempt
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._rows: list[tuple[int, float, int]] = []
        self._lines: deque[bytes] = deque()  # not written yet
        self._epoch = 0
        self._lock = threading.RLock()  # checkpoints report from a thread of their own
        self._flushed_at = time.monotonic()
        self._memory_at = 0.0
        size = os.fstat(self._descriptor).st_size
        # Whether the last line lacks its end: an attempt was killed inside it, or the disk took only a part.
        self._torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"

    def write(self, kind: str, **fields: Any) -> None:
        """Append one event, after the steps before it."""
        with self._lock:
            self._take_rows()
            self._add({"kind": kind, "attempt": self.attempt, "rank": self.rank, "time": time.time(), **fields})
            self.flush()

    def step(self, epoch: int, step: int, loss: float, samples: int) -> None:
        """Note one optimizer step."""
        with self._lock:
            self._epoch = epoch
            self._rows.append((step, loss, samples))
        if len(self._rows) >= _FLUSH_ROWS or time.monotonic() - self._flushed_at >= _FLUSH_SECONDS:
            self.flush()

    def due(self) -> bool:
        """Tell whether buffered steps would be written now."""
        return time.monotonic() - self._flushed_at >= _FLUSH_SECONDS

    def flush(self) -> str:
        """Write what is buffered; return the empty text, or why the disk refuses.

        Raises
        ------
        OSError
            When the disk has refused so much that it can no longer be kept in memory.
        """
        with self._lock:
            self._flushed_at = time.monotonic()
            self._take_rows()
            try:
                self._write_lines()
            except OSError as failure:
                if sum(map(len, self._lines)) > _KEPT_BYTES:
                    raise
                return failure.strerror or str(failure)
            return ""

    def sync(self) -> None:
        """Have the events of all ranks on the disk: a checkpoint must never outlive the steps that led to it."""
        for path in self._path.parent.glob("rank-*.jsonl"):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Write what is buffered and close the file.

        Raises
        ------
        OSError
            When the disk still refuses what is buffered.
        """
        try:
            with self._lock:
                self._take_rows()
                self._write_lines()
        finally:
            os.close(self._descriptor)

    def _take_rows(self) -> None:
        if not self._rows:
            return
        now = time.monotonic()
        event: dict[str, Any] = {"kind": "steps", "attempt": self.attempt, "rank": self.rank, "time": time.time()}
        event |= {"epoch": self._epoch, "rows": self._rows}
        if now - self._memory_at >= _MEMORY_SECONDS:
            self._memory_at = now
            event["memory_bytes"] = resident_bytes()
        self._rows = []
        self._add(event)

    def _add(self, event: dict[str, Any]) -> None:
        self._lines.append(json.dumps(event, separators=(",", ":")).encode() + b"\n")

    def _write_lines(self) -> None:
        while self._lines:
            line = (b"\n" if self._torn else b"") + self._lines[0]
            written = os.write(self._descriptor, line)
            self._torn = written < len(line)
            if not self._torn:  # else the whole line again, on a line of its own: readers pass over the torn one
                self._lines.popleft()


class EventReader:
    """Reads the events of all ranks from where it stopped; a half-written last line waits for its rest."""

    def __init__(self, folder: Path, offsets: dict[str, int] | None = None) -> None:
        self._folder = folder
        self.offsets: dict[str, int] = dict(offsets or {})

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield new events, rank by rank; a line that is not JSON is passed over, as a kill may tear one."""
        for path in sorted(self._folder.glob("rank-*.jsonl")):
            yield from self._read(path)

    def read_in_order(self) -> Iterator[dict[str, Any]]:
        """Yield new events in the order of their times, without holding all of them at once."""
        files = [self._read(path) for path in sorted(self._folder.glob("rank-*.jsonl"))]
        return heapq.merge(*files, key=lambda event: event["time"])

    def _read(self, path: Path) -> Iterator[dict[str, Any]]:
        while True:
            with path.open("rb") as source:
                source.seek(self.offsets.get(path.name, 0))
                content = source.read(_READ_LIMIT_BYTES)
            end = content.rfind(b"\n") + 1
            if not end:
                break
            self.offsets[path.name] = self.offsets.get(path.name, 0) + end
            for line in content[:end].splitlines():
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict) and "kind" in event:
                    yield event
            if len(content) < _READ_LIMIT_BYTES:
                break


def resident_bytes() -> int:
    """Return this process's resident memory."""
    try:
        with open("/proc/self/statm", encoding="ascii") as source:
            return int(source.read().split()[1]) * _PAGE_BYTES
    except OSError:  # not Linux
        import psutil

        return int(psutil.Process().memory_info().rss)
