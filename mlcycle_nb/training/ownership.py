"""A worker ends with the launcher that started it: kill -9 of a launcher leaves its workers running otherwise."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
import time
from typing import NoReturn

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; where it cannot, a thread watches."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(parent,), name="parent-watch", daemon=True).start()
    # The parent may have ended between our start and the call: then its death is no signal any more.
    if not _is_launcher(parent):
        os._exit(1)


def leave(code: int) -> NoReturn:
    """End this process after its threads and exit handlers, but without the destructors of native libraries.

    A process group that is taken down while the interpreter ends aborts about once in thirty times, which would make
    a failure of a rank that has done all its work.
    """
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread():
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _is_launcher(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as source:
            command = source.read()
            launches = b"torch.distributed.run" in command or b"mlcycle_nb.training.node_agent" in command
            return launches or os.environ.get("MLCYCLE_ANY_PARENT") == "1"
    except OSError:
        return sys.platform != "linux" and os.getppid() == pid


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
