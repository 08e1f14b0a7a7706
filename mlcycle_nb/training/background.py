"""A thread for one thing at a time, beside the training thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class BackgroundThread:
    """A thread that does one thing at a time; kept, because starting one can take longer than the copying."""

    def __init__(self) -> None:
        self._given: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether what was given last is still being done."""
        return not self._idle.is_set()

    def do(self, call: Callable[[], None]) -> None:
        """Return at once; `call` raises nothing."""
        self._idle.clear()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
            self._thread.start()
        self._given.put(call)

    def wait(self) -> None:
        """Return when nothing is being done."""
        self._idle.wait()

    def _run(self) -> None:
        while True:
            call = self._given.get()
            try:
                call()
            finally:
                self._idle.set()
