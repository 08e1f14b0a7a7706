"""Where the time comes from: one small interface, so that 28 days can pass in a test.

The supervisor is a process of its own, so a test clock that lives in memory cannot reach it. `OffsetClock`
adds the seconds written in a file of the workspace; moving time is writing that file.
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from mlcycle_nb.errors import InvalidInput


class Clock(Protocol):
    """Source of wall-clock and monotonic time."""

    def now(self) -> datetime:
        """Return the time of day, timezone-aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class OffsetClock:
    """The machine's clock moved forward by the seconds written in a file.

    Parameters
    ----------
    path : Path
        JSON file ``{"offset_seconds": float}``; a missing file is an offset of zero.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.offset_seconds())

    def monotonic(self) -> float:
        return time.monotonic()

    def offset_seconds(self) -> float:
        """Return the offset in force, in seconds."""
        try:
            return float(json.loads(self.path.read_text())["offset_seconds"])
        except FileNotFoundError:
            return 0.0

    def advance(self, by: timedelta) -> datetime:
        """Move time forward by `by` for every process that reads the same file, and return the new time."""
        if by < timedelta(0):
            raise InvalidInput("a clock cannot be moved back", value=str(by), where="advance")
        staged = self.path.with_suffix(".tmp")
        staged.write_text(json.dumps({"offset_seconds": self.offset_seconds() + by.total_seconds()}))
        os.replace(staged, self.path)
        return self.now()
