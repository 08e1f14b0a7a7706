"""What ended a worker: the user's code, the numbers, the memory, or another rank."""

from __future__ import annotations

import errno
import json
import linecache
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.files import write_atomically
from mlcycle_nb.training import memory
from mlcycle_nb.training.tracebacks import format_error, users_frame
from mlcycle_nb.training.trouble import Trouble

_TRACEBACK_LIMIT = 20_000
_CAUGHT = re.compile(r"Caught \w+ in ([^\n]+?)\.\s+Original Traceback")
_PEER_WORDS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "process group", "broken pipe")
_DEATH_WORDS = ("exited unexpectedly", "is killed by signal")
_MEMORY_WORDS = ("can't allocate memory", "out of memory", "cannot allocate memory")


def classify(error: BaseException) -> str:
    """Return a kind of trouble, ``disk``, ``peer``, ``crash`` or ``user``.

    ``peer`` is the echo of another rank's end, so it says nothing about the code; all others but ``disk`` come again
    when the job is run again.
    """
    if isinstance(error, Trouble):
        return error.kind
    if isinstance(error, MLCycleError):  # ours, whatever words it has
        return "user"
    text = str(error).lower()
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out_of_memory"
    if isinstance(error, RuntimeError) and any(word in text for word in _MEMORY_WORDS):
        return "out_of_memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return "disk"
    if isinstance(error, RuntimeError) and "dataloader worker" in text and any(word in text for word in _DEATH_WORDS):
        return "crash"
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
    line, source = (None, "") if last is None else (last.lineno, (last.line or "").strip())
    message = str(error) if isinstance(error, MLCycleError) else f"{type(error).__name__}: {error}"
    elsewhere = _CAUGHT.match(str(error))
    if elsewhere:  # torch gives the whole traceback of its data worker as the text of the error
        message = f"{str(error).strip().splitlines()[-1]} (in {elsewhere[1]})"
        places = re.findall(rf'File "{re.escape(own)}", line (\d+)', str(error))
        if places:
            line = int(places[-1])
            source = linecache.getline(own, line).strip()
    kind = classify(error)
    if kind == "out_of_memory":
        message = f"out of memory: {message} - {memory.held()}; {memory.REMEDY}"
    return {
        "kind": kind,
        "rank": rank,
        "time": time.time(),
        "type": type(error).__name__,
        "message": " ".join(message.split())[:1000],
        "line": line,
        "source": source[:200],
        "file": file,
        "skip": error.skip if isinstance(error, Trouble) else None,
        "traceback": format_error(error, own, labels or {}, rank=rank)[-_TRACEBACK_LIMIT:],
    }


def write_error(path: Path, document: dict[str, Any]) -> None:
    """Store an error document."""
    write_atomically(path, json.dumps(document, indent=1))


def remember_source(name: str, source: str) -> None:
    """Let tracebacks show the lines of a cell that is in no file."""
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
