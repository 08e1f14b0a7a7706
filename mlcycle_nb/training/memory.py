"""Whether a worker was killed for its memory: an exit by SIGKILL alone does not say so, only what can be seen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

REMEDY = "use smaller batches with --gradient-accumulation, fewer --processes or data workers, or a machine with more"
_CLOSE = 0.9
_NO_LIMIT = 1 << 60
_ROOT = Path("/sys/fs/cgroup")


def kills(root: Path = _ROOT) -> int:
    """Return how many processes of this control group the kernel killed for memory; 0 where it does not say."""
    for file in (root / "memory.events", root / "memory" / "memory.oom_control"):
        for line in _lines(file):
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def limit_bytes(root: Path = _ROOT) -> int | None:
    """Return how much memory the processes here may have: the control group's limit, or what the machine has."""
    limits = []
    for file in (root / "memory.max", root / "memory" / "memory.limit_in_bytes"):
        limits += [int(line) for line in _lines(file)[:1] if line.strip().isdigit()]
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemTotal:"):
            limits.append(int(line.split()[1]) * 1024)
    limits = [limit for limit in limits if limit < _NO_LIMIT]
    return min(limits, default=None)


def evidence(before: int, now: int, resident: Mapping[int, int], limit: int | None) -> str:
    """Return what speaks for an end by lack of memory, or the empty text.

    Parameters
    ----------
    before, now : int
        Kills for memory in this control group, at the launch and after the end.
    resident : mapping
        Rank -> its last resident memory, in bytes.
    limit : int, optional
        What all of them may have together.
    """
    if now > before:
        return f"the kernel has killed {_count(now - before)} for memory since the launch; {REMEDY}"
    held = sum(resident.values())
    if limit and held >= _CLOSE * limit:
        return f"the workers held {_gigabytes(held)} of {_gigabytes(limit)}; {REMEDY}"
    return ""


def held() -> str:
    """Say how much memory this process has resident."""
    from mlcycle_nb.training.events import resident_bytes

    limit = limit_bytes()
    return f"the process held {_gigabytes(resident_bytes())}" + (f" of {_gigabytes(limit)}" if limit else "")


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


def _count(processes: int) -> str:
    return "a process" if processes == 1 else f"{processes} processes"
