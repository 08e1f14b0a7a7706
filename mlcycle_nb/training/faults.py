"""What ended a worker: the user's code, the numbers, the memory, or another rank."""

from __future__ import annotations

import errno
import json
import linecache
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.files import write_atomically
from mlcycle_nb.training.session import NonFinite
from mlcycle_nb.training.tracebacks import format_error, users_frame

_TRACEBACK_LIMIT = 20_000
_PEER_WORDS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "process group", "broken pipe")
_MEMORY_WORDS = ("can't allocate memory", "out of memory", "cannot allocate memory")


def classify(error: BaseException) -> str:
    """Return ``non_finite``, ``out_of_memory``, ``disk``, ``peer`` or ``user``.

    ``peer`` is the echo of another rank's end, so it says nothing about the code; all others but ``disk`` come again
    when the job is run again.
    """
    if isinstance(error, NonFinite):
        return "non_finite"
    text = str(error).lower()
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out_of_memory"
    if isinstance(error, RuntimeError) and any(word in text for word in _MEMORY_WORDS):
        return "out_of_memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return "disk"
    if type(error).__module__.startswith("torch.distributed") or type(error).__name__.startswith("Dist"):
        return "peer"
    if isinstance(error, RuntimeError) and any(word in text for word in _PEER_WORDS):
        return "peer"
    return "user"


def describe(
    error: BaseException, own: str, rank: int, *, file: str = "", labels: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return what the notebook shows of an error: one line, the user's own line, the rank, and the traceback.

    Parameters
    ----------
    error : BaseException
    own : str
        File name of the cell or script, as its code objects have it.
    rank : int
    file : str
        What to call a script; empty for a cell.
    labels : mapping, optional
        File name -> what to call it, for the cells among them.
    """
    last = users_frame(error, own)
    message = str(error) if isinstance(error, MLCycleError) else f"{type(error).__name__}: {error}"
    return {
        "kind": classify(error),
        "rank": rank,
        "time": time.time(),
        "type": type(error).__name__,
        "message": " ".join(message.split())[:1000],
        "line": None if last is None else last.lineno,
        "source": "" if last is None else (last.line or "").strip()[:200],
        "file": file,
        "traceback": format_error(error, own, labels or {}, rank=rank)[-_TRACEBACK_LIMIT:],
    }


def write_error(path: Path, document: dict[str, Any]) -> None:
    """Store an error document."""
    write_atomically(path, json.dumps(document, indent=1))


def remember_source(name: str, source: str) -> None:
    """Let tracebacks show the lines of a cell that is in no file."""
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
