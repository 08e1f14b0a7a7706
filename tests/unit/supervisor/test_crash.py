"""Crash points: SIGKILL at the named place, at the wanted pass, and nowhere else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
from mlcycle_nb.supervisor.crash import crash_point
for number in range(4):
    crash_point("rollout.after_weight")
    crash_point("other")
    print(number, flush=True)
"""


@pytest.mark.parametrize(
    ("wanted", "passed", "killed"),
    [
        ("rollout.after_weight", 0, True),
        ("rollout.after_weight:1", 0, True),
        ("rollout.after_weight:3", 2, True),
        ("rollout.after_weight:9", 4, False),
        ("rollout.after", 4, False),
        ("", 4, False),
    ],
)
def test_it_fires_where_it_is_told(wanted: str, passed: int, killed: bool) -> None:
    """At the n-th pass of the named point."""
    environment = {**os.environ, "MLCYCLE_CRASH_AT": wanted}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)

    assert done.stdout.split() == [str(number) for number in range(passed)]
    assert done.returncode == (-signal.SIGKILL if killed else 0)
