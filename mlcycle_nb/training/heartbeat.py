"""The sign of life of a rank: a small file, renewed every second, and the bound on what the rank prints."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from mlcycle_nb.files import private_folder, write_atomically
from mlcycle_nb.training.events import EventWriter, resident_bytes
from mlcycle_nb.training.output import bound

BEAT_SECONDS = 1.0
_BOUND_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Beat:
    """What a rank says of itself.

    Attributes
    ----------
    time : float
        Seconds since 1970, of the last sign.
    ended : bool
        Whether the rank said itself that it ends.
    """

    rank: int
    attempt: int
    pid: int
    time: float
    memory_bytes: int
    gpu_bytes: int | None = None
    ended: bool = False


class Heart:
    """Beats in a thread of the worker until it is stopped; a process that is killed just stops.

    Parameters
    ----------
    folder : Path
        The job's folder.
    """

    def __init__(self, folder: Path, rank: int, attempt: int) -> None:
        self._file = private_folder(folder / "alive") / f"rank-{rank}.json"
        self._log = folder / "output" / f"rank-{rank}.log"
        self._rank, self._attempt = rank, attempt
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def start(self) -> Heart:
        """Begin."""
        self._beat()
        self._thread.start()
        return self

    def stop(self) -> None:
        """Beat a last time, saying that this is the end."""
        self._stop.set()
        self._thread.join(timeout=5)
        bound(self._log)
        self._beat(ended=True)

    def _beat_on(self) -> None:
        due = time.monotonic() + BEAT_SECONDS
        while not self._stop.wait(_BOUND_SECONDS):
            bound(self._log)
            if time.monotonic() >= due:
                due = time.monotonic() + BEAT_SECONDS
                self._beat()
                _flush_events()

    def _beat(self, *, ended: bool = False) -> None:
        beat = Beat(self._rank, self._attempt, os.getpid(), time.time(), resident_bytes(), _gpu_bytes(), ended)
        try:
            write_atomically(self._file, json.dumps(asdict(beat)), durable=False)
        except OSError:
            return  # a full disk must not end the training


_events: list[EventWriter] = []


def flush_with_beats(events: EventWriter) -> None:
    """Have `events` written at each beat too: of a step that takes long, those before it are told meanwhile."""
    _events[:] = [events]


def _flush_events() -> None:
    for events in _events:
        try:
            events.flush()
        except OSError:
            return  # the training thread meets the same, and says so


def read_beats(folder: Path) -> dict[int, Beat]:
    """Return the last sign of each rank; a file that cannot be read is no sign."""
    found = {}
    for path in sorted((folder / "alive").glob("rank-*.json")):
        try:
            beat = Beat(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            continue
        found[beat.rank] = beat
    return found


def _gpu_bytes() -> int | None:
    """Return the memory that torch holds on this process's GPU; never the reason why torch or CUDA is loaded."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not getattr(cuda, "is_initialized", lambda: False)():
        return None
    try:
        return int(cuda.memory_reserved())
    except RuntimeError:
        return None
