"""Which process is which: a pid alone is recycled, a pid with its start time is not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process for good: its pid and when the kernel started it."""

    pid: int
    started: str  # clock ticks since a named boot on Linux, seconds since the epoch elsewhere

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """Return the identity of a living process, or None."""
        started = _started(pid)
        return None if started is None else cls(pid, started)

    def alive(self) -> bool:
        """Return whether this very process runs; a zombie does not."""
        return _started(self.pid) == self.started

    def suspended(self) -> bool:
        """Return whether somebody has stopped this very process (SIGSTOP): it lives and does nothing."""
        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED and self.alive()
        except psutil.Error:
            return False


@cache
def _boot() -> str:
    # A machine that starts the same way each time gives the same pid the same tick.
    return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]


def _started(pid: int) -> str | None:
    try:
        # Start time in ticks since boot does not move when somebody sets the clock, as psutil's create_time may.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else f"{fields[19]}@{_boot()}"
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except (ProcessLookupError, PermissionError):
        return None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
    except psutil.Error:
        return None
