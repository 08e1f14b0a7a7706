"""Stalls: training that has begun and brings no step any more, and where its ranks stand then."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from mlcycle_nb.files import write_atomically
from mlcycle_nb.references import format_duration
from mlcycle_nb.supervisor.identity import ProcessIdentity
from mlcycle_nb.training.job_folder import JobFolder

STACK_SIGNAL = signal.SIGUSR2
_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.+)')
_WAITING = ("torch/distributed", "torch/autograd", "accelerate/")  # where a rank waits for the others


class QuietWatch:
    """How long jobs have been quiet, on a clock that no jump of the time of day can move."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[object, float]] = {}

    def quiet_seconds(self, job: str, sign: object) -> float:
        """Return the time since `sign` was another; None as the sign means that nothing is awaited."""
        before, now = self._seen.get(job), time.monotonic()
        if sign is None or before is None or before[0] != sign:
            self._seen[job] = (sign, now)
            return 0.0
        return now - before[1]

    def forget(self, job: str) -> None:
        """Drop what is known of a job."""
        self._seen.pop(job, None)


def sign_of_progress(folder: JobFolder, attempt: int, stage: str) -> object:
    """Return what changes with each step or evaluated batch; None while the cell does what nobody can measure."""
    if stage not in {"starting", "training"}:
        return None
    signs = []
    for path in sorted(folder.events.glob("rank-*.jsonl")):
        status = path.stat()
        signs.append((path.name, status.st_size, status.st_mtime_ns))
    return (attempt, stage, *signs)


def stage_after(stage: str, event: Mapping[str, Any]) -> str:
    """Return what a job does after an event: starting, preparing, training or closing."""
    follows = {"started": "preparing", "fit": "training", "trained": "closing", "ended_early": "closing"}
    return follows.get(str(event["kind"]), stage)


def ask_for_stacks(folder: JobFolder, launcher: ProcessIdentity | None, attempt: int) -> None:
    """Have each rank write its Python stacks, as a file in the job's folder."""
    asked = folder.run / f"stacks-asked-{attempt}"
    for process in _ranks(launcher).values():
        try:
            process.send_signal(STACK_SIGNAL)
        except psutil.Error:
            continue
    asked.touch(mode=0o600)


def stacks_asked(folder: JobFolder, attempt: int) -> bool:
    """Tell whether an attempt was asked for its stacks."""
    return (folder.run / f"stacks-asked-{attempt}").exists()


def note_stall(
    folder: JobFolder, launcher: ProcessIdentity | None, attempt: int, *, cell: str, steps: Mapping[int, int],
    quiet_seconds: float,
) -> None:  # fmt: skip
    """Write down, as the error of the rank that holds the others up, where it stands."""
    stacks = {rank: read_stack(folder.stacks_of(attempt, rank)) for rank in steps}
    stopped = {rank for rank, process in _ranks(launcher).items() if _is_stopped(process)}
    rank = stuck_rank(steps, stacks, stopped)
    frames = stacks[rank]
    own = next((frame for frame in frames if frame[0].startswith("<train ")), None)
    if rank in stopped:
        where = "its process is suspended (SIGSTOP)"
    elif frames:
        file, line, name = frames[0]
        where = f"it stands in {name} ({Path(file).name}:{line})"
    else:
        where = "it does not say where it stands"
    from datetime import timedelta

    quiet = format_duration(timedelta(seconds=round(quiet_seconds)))
    message = f"no step for {quiet}: rank {rank} is stuck after step {steps[rank]}; {where}"
    document: dict[str, Any] = {"kind": "stall", "rank": rank, "time": time.time(), "type": "Stall", "message": message}
    line_number = None if own is None else own[1]
    document |= {"line": line_number, "source": _source(cell, line_number), "traceback": _as_text(stacks)}
    write_atomically(folder.error_of(attempt, rank), json.dumps(document, indent=1))


def read_stack(path: Path) -> list[tuple[str, int, str]]:
    """Return the frames of one thread, as faulthandler wrote them, innermost first: file, line, function."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    frames = [_FRAME.fullmatch(line) for line in text.splitlines()]
    return [(frame["file"], int(frame["line"]), frame["name"]) for frame in frames if frame is not None]


def stuck_rank(steps: Mapping[int, int], stacks: Mapping[int, list[tuple[str, int, str]]], stopped: set[int]) -> int:
    """Return the rank that holds the others up: one that is suspended, else the one behind, else one not waiting."""

    def order(rank: int) -> tuple[bool, int, bool, int]:
        waiting = any(place in frame[0] for frame in stacks.get(rank, [])[:12] for place in _WAITING)
        return (rank not in stopped, steps[rank], waiting, rank)

    return min(steps, key=order)


def _ranks(launcher: ProcessIdentity | None) -> dict[int, psutil.Process]:
    found: dict[int, psutil.Process] = {}
    if launcher is None:
        return found
    try:
        children = psutil.Process(launcher.pid).children()
    except psutil.Error:
        return found
    for child in children:
        try:
            if "mlcycle_nb.training.worker" in child.cmdline():
                found[int(child.environ()["RANK"])] = child
        except (psutil.Error, KeyError, ValueError):
            continue
    return found


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def _source(cell: str, line: int | None) -> str:
    lines = cell.splitlines()
    return lines[line - 1].strip()[:200] if line and line <= len(lines) else ""


def _as_text(stacks: Mapping[int, list[tuple[str, int, str]]]) -> str:
    parts = []
    for rank, frames in sorted(stacks.items()):
        parts.append(f"rank {rank}, innermost last:")
        parts += [f'  File "{file}", line {line}, in {name}' for file, line, name in reversed(frames)]
    return "\n".join(parts) + "\n"
