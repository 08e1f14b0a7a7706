"""A worker hears that it shall end: by a signal to it, or by the stop request in the job's folder.

Python runs signal handlers only between two byte codes of the main thread, and a main thread that waits for data or for
another rank may not get there. So the C handler writes the signal's number into a pipe, and a thread reads it: it asks
the session for a checkpoint and the end, and when that does not come within the grace it says why and ends the process.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any

from mlcycle_nb.references import format_duration

if TYPE_CHECKING:
    from mlcycle_nb.training.job_folder import JobFolder
    from mlcycle_nb.training.session import TrainingSession

HEEDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
"""Each asks for a checkpoint and the end; SIGUSR2 writes the Python stacks, see `stalls`."""

_LOOK_SECONDS = 0.2


class StopWatch:
    """Listens from the first moment of a worker to its last.

    Parameters
    ----------
    folder : JobFolder
        The job's folder.
    rank, attempt : int
    grace_seconds : float
        From being told to the end with a committed checkpoint.
    """

    def __init__(self, folder: JobFolder, *, rank: int, attempt: int, grace_seconds: float) -> None:
        self._folder, self._rank, self._attempt, self._grace = folder, rank, attempt, grace_seconds
        self._session: TrainingSession | None = None
        self._deadline: float | None = None
        self._cause = ""
        self._over = False
        self._local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self._heard, self._told = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def listen(self) -> StopWatch:
        """Take the signals over, and watch for the stop request; called in the main thread."""
        signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)  # first: a signal between the two would be lost
        for number in HEEDED:
            signal.signal(number, self._handle)
        os.register_at_fork(after_in_child=_forget)
        threading.Thread(target=self._watch, name="stop-watch", daemon=True).start()
        return self

    def attach(self, session: TrainingSession) -> None:
        """Pass what was heard, and what will be, on to the session."""
        self._session = session
        session.stop_watch = self
        if self._deadline is not None:
            session.stop_asked = True

    def ask(self, cause: str) -> None:
        """Ask for a checkpoint and the end within the grace; the first cause counts."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._grace
            self._cause = cause
            told = {"cause": cause, "rank": self._rank, "time": time.time()}
            _write_once(self._folder, self._attempt, json.dumps(told))
        if self._session is not None:
            self._session.stop_asked = True

    def leave(self) -> None:
        """Stop counting the grace: how the attempt ended has been written down."""
        self._over = True

    # -- parts -----------------------------------------------------------------------------------------------

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Wake blocking calls of the main thread; the thread at the other end of the pipe does the rest."""

    def _watch(self) -> None:
        while True:
            ready, _, _ = select.select([self._heard], [], [], _LOOK_SECONDS)
            for number in os.read(self._heard, 256) if ready else b"":
                if number in HEEDED:
                    self._take(signal.Signals(number))
            if self._deadline is None:
                if self._folder.stop_request.exists():
                    self.ask("a stop request")
            elif not self._over and time.monotonic() >= self._deadline:
                self._give_up()

    def _take(self, number: signal.Signals) -> None:
        if number == signal.SIGTERM and self._deadline is None and self._alone():
            # torchrun ends the others when one worker has died: there is nobody left to agree with.
            while self._session is not None and self._session.checkpointer.busy:
                time.sleep(0.02)
            os._exit(1)
        self.ask(number.name)

    def _alone(self) -> bool:
        """Tell whether another worker of this launcher has died."""
        if self._local_world < 2 or self._over:
            return False
        import psutil

        try:
            siblings = psutil.Process(os.getppid()).children()
            return sum(each.status() != psutil.STATUS_ZOMBIE for each in siblings) < self._local_world
        except psutil.Error:
            return False

    def _give_up(self) -> None:
        from mlcycle_nb.files import write_atomically

        session = self._session
        where, line, source = _main_thread_stands_in()
        if session is not None and session.checkpointer.busy:
            reason = f"the checkpoint of step {session.step} was still being written"
        elif session is None:
            reason = f"rank {self._rank} had not begun to train"
        else:
            reason = f"rank {self._rank} stood in {where} after step {session.step}"
        grace = format_duration(timedelta(seconds=self._grace))
        message = f"{self._cause} asked for the end, and no checkpoint could be taken within {grace}: {reason}"
        document = {"kind": "unsaved", "rank": self._rank, "time": time.time(), "type": "Unsaved", "message": message}
        document |= {"line": line, "source": source, "traceback": ""}
        write_atomically(self._folder.error_of(self._attempt, self._rank), json.dumps(document, indent=1))
        print(message, file=sys.stderr, flush=True)
        if session is not None:
            session.events.write("error", message=message, line=line, cause="unsaved")
        os._exit(1)


def _write_once(folder: JobFolder, attempt: int, text: str) -> None:
    path = folder.told_of(attempt)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        staged.write_text(text)
        os.link(staged, path)
    except OSError:  # another rank was told before, or the disk is full: the end does not depend on it
        pass
    staged.unlink(missing_ok=True)


def _forget() -> None:
    """Let a forked child be ended by signals, as it would be in a program of its own."""
    signal.set_wakeup_fd(-1)
    for number in HEEDED:
        signal.signal(number, signal.SIG_DFL)


def _main_thread_stands_in() -> tuple[str, int | None, str]:
    """Return where the main thread is: in words, and the line of the cell when it is inside of one."""
    import traceback

    frame: Any = sys._current_frames().get(threading.main_thread().ident or 0)
    frames = traceback.extract_stack(frame)
    own = [each for each in frames if each.filename.startswith("<train ")]
    innermost = frames[-1]
    where = f"{innermost.name} ({os.path.basename(innermost.filename)}:{innermost.lineno})"
    if not own:
        return where, None, ""
    return where, own[-1].lineno, (own[-1].line or "").strip()[:200]
