"""Named crash points, so that a test can kill a process at an exact place."""

from __future__ import annotations

import os
import signal

_reached: dict[str, int] = {}


def crash_point(name: str) -> None:
    """Kill this process with SIGKILL when ``MLCYCLE_CRASH_AT`` names this point.

    ``MLCYCLE_CRASH_AT=rollout.after_weight`` fires at the first pass, ``...:3`` at the third. Only the process
    that carries the variable can fire; what the supervisor starts does not inherit it.
    """
    wanted = os.environ.get("MLCYCLE_CRASH_AT")
    if not wanted:
        return
    point, _, number = wanted.partition(":")
    if point != name:
        return
    _reached[name] = _reached.get(name, 0) + 1
    if _reached[name] == int(number or 1):
        os.kill(os.getpid(), signal.SIGKILL)
