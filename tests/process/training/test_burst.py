"""A worker that prints far too much: the disk, the cell, the panel and the messages to the page stay small."""

from __future__ import annotations

import time
from typing import Any

import pytest

from mlcycle_nb.training.job_folder import JobFolder
from mlcycle_nb.training.output import KEPT_BYTES, MOST_BYTES
from mlcycle_nb.training.panel import TrainingPanel
from mlcycle_nb.workspace import Workspace

pytestmark = pytest.mark.timeout(170)

BURST = """
import os, sys, time

for number in range(100_000):
    print("line", number, "\\x1b[31m" + "x" * 60 + "\\x1b[0m")
print("y" * 10_000_000)
sys.stdout.buffer.write(bytes(range(256)) * 4000 + b"\\n")
for step in range(2000):
    print(f"\\r{step / 20:.0f}%|###", end="")
print()
os.write(2, b"from native code " * 300_000 + b"\\n")
time.sleep(1.0)
print("\\x1b]0;title\\x07the end")
"""


def test_a_burst_of_prints_hurts_nobody(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand lines, a line of 10 MB, bytes that are no text, progress bars, native code."""
    training = workspace.training
    handle = training.train_model("burst", BURST, {})
    panel = TrainingPanel(training, handle.id)
    sent: list[tuple[float, int]] = []
    widget = panel.widget()
    widget.send = lambda content, buffers=None: sent.append((time.monotonic(), len(str(content))))
    handle.result(timeout=150)
    panel.close()
    folder = JobFolder(workspace.home / "training" / "jobs" / handle.id)
    room = sum(path.stat().st_size for path in folder.output.iterdir())
    shown = training.logs(handle.id)

    assert room <= MOST_BYTES + 2 * KEPT_BYTES
    assert shown.splitlines()[-1] == "the end"
    assert len(shown.splitlines()) <= 201
    assert len(shown) <= 65_536 + 100
    assert "were left out" in shown.splitlines()[0]
    assert all(line.isprintable() for line in shown.splitlines())
    assert len(repr(handle)) < 5000
    assert len(panel.to_html()) < 100_000
    _at_its_rate(sent)


def _at_its_rate(sent: list[tuple[float, int]]) -> None:
    """Two messages a second and one to spare, none of them large."""
    assert sent
    assert all(size < 30_000 for _, size in sent)
    for first, _ in sent:
        assert sum(first <= moment < first + 2.0 for moment, _ in sent) <= 5


def test_logs_follow_a_job_to_its_end(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    """In a terminal each line comes once, of one rank or of all; wrong ranks and counts are refused."""
    from mlcycle_nb.errors import InvalidInput
    from mlcycle_nb.training.log_view import follow_logs

    cell = 'import time\nfor n in range(5):\n    print("line", n)\n    time.sleep(0.4)\nprint("without an end", end="")'
    handle = workspace.training.train_model("told", cell, {}, processes=1)
    follow_logs(workspace.training, "told", rank=0, lines=50)
    told: list[Any] = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("line", "without"))]

    assert told == [*(f"line {n}" for n in range(5)), "without an end"]
    assert handle.result(timeout=60).phase == "finished"
    with pytest.raises(InvalidInput, match="ranks 0 to 0"):
        workspace.training.logs("told", rank=1)
    with pytest.raises(InvalidInput, match="lines must be a whole number from 1"):
        workspace.training.logs("told", lines=0)
