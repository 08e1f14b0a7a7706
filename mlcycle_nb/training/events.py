"""What workers tell: JSON lines, one file a rank, appended by the worker and read by anybody.

Steps are buffered and written a few times a second, and always before a checkpoint is taken: whatever a crash
swallows lies after the newest checkpoint and is run again.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FLUSH_SECONDS = 0.2
_FLUSH_ROWS = 512
_MEMORY_SECONDS = 1.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_READ_LIMIT_BYTES = 4_194_304


class EventWriter:
    """Appends the events of one rank in one attempt."""

    def __init__(self, path: Path, *, rank: int, attempt: int) -> None:
        self.rank = rank
        self.attempt = attempt
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            os.write(self._descriptor, b"\n")  # the attempt before was killed in the middle of a line
        self._rows: list[tuple[int, float, int]] = []
        self._epoch = 0
        self._lock = threading.RLock()  # checkpoints report from a thread of their own
        self._flushed_at = time.monotonic()
        self._memory_at = 0.0

    def write(self, kind: str, **fields: Any) -> None:
        """Append one event, after the steps before it."""
        with self._lock:
            self.flush()
            self._append({"kind": kind, "attempt": self.attempt, "rank": self.rank, "time": time.time(), **fields})

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

    def flush(self) -> None:
        """Write the buffered steps."""
        with self._lock:
            now = time.monotonic()
            self._flushed_at = now
            if not self._rows:
                return
            event: dict[str, Any] = {"kind": "steps", "attempt": self.attempt, "rank": self.rank, "time": time.time()}
            event |= {"epoch": self._epoch, "rows": self._rows}
            if now - self._memory_at >= _MEMORY_SECONDS:
                self._memory_at = now
                event["memory_bytes"] = resident_bytes()
            self._rows = []
            self._append(event)

    def close(self) -> None:
        """Write what is buffered and close the file."""
        self.flush()
        os.close(self._descriptor)

    def _append(self, event: dict[str, Any]) -> None:
        os.write(self._descriptor, json.dumps(event, separators=(",", ":")).encode() + b"\n")


class EventReader:
    """Reads the events of all ranks from where it stopped; a half-written last line waits for its rest."""

    def __init__(self, folder: Path, offsets: dict[str, int] | None = None) -> None:
        self._folder = folder
        self.offsets: dict[str, int] = dict(offsets or {})

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield new events, rank by rank; a line that is not JSON is passed over, as a kill may tear one."""
        for path in sorted(self._folder.glob("rank-*.jsonl")):
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
