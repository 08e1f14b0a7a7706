"""Errors of workers: the user's own lines, none of ours, the first rank only."""

from __future__ import annotations

import json
import linecache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlcycle_nb.errors import EngineError, JobFailed
from mlcycle_nb.training import cell_sources, faults
from mlcycle_nb.training.failures import read_failures
from mlcycle_nb.training.job_folder import JobFolder

LIBRARY = """def smooth(value):
    part = value * 2
    return part / 0
"""
CELL = """
import json
total = 1
def step(value):
    return smooth(value)
step(total)
"""


def error_of(source: str, name: str, namespace: dict[str, Any]) -> BaseException:
    faults.remember_source(name, source)
    try:
        exec(compile(source, name, "exec"), namespace)
    except BaseException as raised:
        return raised
    raise AssertionError("nothing was raised")


class TestFormat:
    """As IPython shows them."""

    def test_cells_have_their_number_and_an_arrow(self) -> None:
        """Both the cell that trains and the earlier cell that it calls; lines around, none of this test's frames."""
        earlier = "/tmp/ipykernel_1/22.py"
        space: dict[str, Any] = {}
        faults.remember_source(earlier, LIBRARY)
        exec(compile(LIBRARY, earlier, "exec"), space)
        error = error_of(CELL, "<train m>", space)

        found = faults.describe(error, "<train m>", 3, labels={"<train m>": "Cell In[7]", earlier: "Cell In[2]"})

        text = found["traceback"]
        assert "ZeroDivisionError               Traceback (most recent call last), rank 3" in text
        assert (
            "Cell In[7], line 6\n      4 def step(value):\n      5     return smooth(value)\n----> 6 step(total)"
            in text
        )
        assert "Cell In[7], line 5, in step\n" in text
        assert "Cell In[2], line 3, in smooth\n      1 def smooth(value):" in text
        assert "----> 3     return part / 0" in text
        assert text.rstrip().endswith("ZeroDivisionError: division by zero")
        assert "test_tracebacks" not in text
        assert (found["line"], found["source"], found["kind"]) == (5, "return smooth(value)", "user")

    def test_libraries_show_one_line(self) -> None:
        """Our own frames are left out."""
        error = error_of("\nimport json\njson.loads('{')\n", "<train m>", {})
        text = faults.describe(error, "<train m>", 0)["traceback"]

        assert "json/decoder.py:" in text
        assert "mlcycle_nb" not in text

    def test_causes_come_first(self) -> None:
        """With the words that Python has for it."""
        source = "\ntry:\n    {}['a']\nexcept KeyError as e:\n    raise ValueError('no a') from e\n"
        text = faults.describe(error_of(source, "<train m>", {}), "<train m>", 0)["traceback"]

        assert text.index("KeyError: 'a'") < text.index("direct cause") < text.index("ValueError: no a")
        assert "----> 3     {}['a']" in text

    def test_an_endless_recursion_is_short(self) -> None:
        """The middle is counted."""
        text = faults.describe(error_of("\ndef f():\n    f()\nf()\n", "<train m>", {}), "<train m>", 0)["traceback"]

        assert "more frames ..." in text
        assert len(text) < 4000

    def test_an_error_in_a_data_worker(self) -> None:
        """Its last line and the cell's own line, not torch's quotation of a whole traceback."""
        import torch

        source = (
            "\nimport torch\nclass Rows(torch.utils.data.Dataset):\n    def __len__(self):\n        return 4\n"
            "    def __getitem__(self, row):\n        raise KeyError('no such row')\n"
            "list(torch.utils.data.DataLoader(Rows(), num_workers=1))\n"
        )
        found = faults.describe(error_of(source, "<train m>", {"torch": torch}), "<train m>", 0)

        assert found["message"] == "KeyError: 'no such row' (in DataLoader worker process 0)"
        assert (found["line"], found["source"]) == (7, "raise KeyError('no such row')")


def test_cells_travel_with_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those whose code is in the payload; files on disk stay where they are."""

    numbers = SimpleNamespace(_filename_map={"/tmp/ipykernel_9/a.py": 4})
    monkeypatch.setattr(cell_sources, "shell", lambda: SimpleNamespace(compile=numbers))
    for name in ("/tmp/ipykernel_9/a.py", "/tmp/ipykernel_9/b.py"):
        faults.remember_source(name, f"here = {name!r}\n")
    cell_sources.write(tmp_path, b"...X/tmp/ipykernel_9/a.py...")
    linecache.cache.pop("/tmp/ipykernel_9/a.py")

    assert cell_sources.remember(tmp_path) == {"/tmp/ipykernel_9/a.py": "Cell In[4]"}
    assert linecache.getline("/tmp/ipykernel_9/a.py", 1) == "here = '/tmp/ipykernel_9/a.py'\n"


def test_the_first_rank_counts(tmp_path: Path) -> None:
    """By time, an echo of another's end never before an error of one's own; the others are counted."""
    folder = JobFolder(tmp_path)
    folder.make()
    for rank, kind, at in [(0, "peer", 1.0), (1, "user", 3.0), (2, "user", 2.0), (3, "user", 4.0)]:
        document = {"kind": kind, "message": f"m{rank}", "rank": rank, "line": 2, "source": "x", "time": at}
        folder.error_of(1, rank).write_text(json.dumps({**document, "traceback": f"t{rank}"}))
    folder.error_of(1, 4).write_text("{")  # torn

    first, *others = read_failures(folder, 1, 6)

    assert (first.rank, first.traceback, first.others) == (2, "t2", 2)
    assert str(first) == "m2 (rank 2, 2 other ranks after it) - cell line 2: x"
    assert [failure.rank for failure in others] == [1, 3, 0]
    assert {failure.traceback for failure in others} == {""}


def test_the_notebook_shows_the_workers_traceback() -> None:
    """Above our one line, and without control characters."""
    shown = JobFailed("training m-1 failed", traceback="Cell In[1], line 2\n----> 2 \x1b[31mboom")._render_traceback_()

    assert shown == ["Cell In[1], line 2", "----> 2 <U+001B>[31mboom", "JobFailed: MLC-710: training m-1 failed"]


def test_our_own_words_are_no_echo_of_another_rank() -> None:
    """An error of ours that speaks of a process group is final, not a reason to start again."""
    error = EngineError("the script formed no process group")

    assert faults.classify(error) == "user"
    assert faults.classify(RuntimeError("gloo: connection closed by peer")) == "peer"
