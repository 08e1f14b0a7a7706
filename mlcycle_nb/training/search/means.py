"""How many trials this machine can bear at once."""

from __future__ import annotations

from pathlib import Path

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.training.launch import threads_for

FIRST_GUESS_BYTES = 600_000_000
"""Memory of a worker before any was measured: what torch takes, and a small model."""
_SPARE = 1.2
_OVERCOMMIT = 4
_GROUP = Path("/sys/fs/cgroup")


def choose_concurrent(asked: int | None, *, processes: int, payload_bytes: int, device: str) -> int:
    """Return how many trials run at once.

    Parameters
    ----------
    asked : int, optional
        As the user wants it. By default as many as there are cores for their processes and memory for a first guess
        of them, and one where a GPU is used.

    Raises
    ------
    InvalidInput
        When `asked` is below 1, or would put more than four processes on each core.
    """
    cores = threads_for(1)
    if asked is None:
        if device != "cpu" and Path("/dev/nvidiactl").exists():
            return 1
        by_memory = int(available_bytes() / (processes * (FIRST_GUESS_BYTES + payload_bytes) * _SPARE))
        return max(1, min(cores // processes, by_memory))
    most = max(1, _OVERCOMMIT * cores // processes)
    if isinstance(asked, bool) or not isinstance(asked, int) or not 1 <= asked <= most:
        plural = "process" if processes == 1 else "processes"
        problem = (
            f"concurrent must be a whole number from 1 to {most} on {cores} cores with {processes} {plural} a trial"
        )
        raise InvalidInput(problem, value=asked, where="--concurrent")
    return asked


def memory_allows(trial_bytes: int) -> bool:
    """Return whether one more trial fits, when the largest so far has taken `trial_bytes`; 0 for not yet known."""
    return available_bytes() > _SPARE * (trial_bytes or FIRST_GUESS_BYTES)


def available_bytes() -> int:
    """Return the memory that is free to use: of the machine, or of this process's group where that has a limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((_GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (_GROUP / "memory.stat").read_text().splitlines())
        if limit != "max":
            free = min(free, int(limit) - int(used) + int(cached.get("inactive_file", 0)))
    except (OSError, ValueError):  # no control group, or of the first version
        return free
    return free
