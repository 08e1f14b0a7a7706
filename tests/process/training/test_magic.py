"""``%%train`` and ``%train`` in a shell, without a front end."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlcycle_nb.errors import InvalidInput, JobFailed, StoreError
from mlcycle_nb.training.magic import TrainingMagics
from mlcycle_nb.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent))

from conftest import names

pytestmark = pytest.mark.timeout(280)

CELL = """model = torch.nn.Linear(20, 3)
fit(model, torch.optim.SGD(model.parameters(), lr=params.lr),
    torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows, labels), batch_size=50),
    loss=torch.nn.CrossEntropyLoss())
"""


@pytest.fixture
def shell(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A shell whose notebook has defined torch, rows and labels."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    from IPython.core.interactiveshell import InteractiveShell

    from mlcycle_nb.notebook.magics import register

    InteractiveShell.clear_instance()
    running = InteractiveShell.instance()
    register(running, [TrainingMagics(running, lambda: workspace)])
    running.push(names())
    yield running
    running.history_manager.end_session()
    InteractiveShell.clear_instance()


def test_train_waits_headless_and_binds(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The handle is bound, has finished, and the verbs of `%train` find the job."""
    handle = shell.run_cell_magic("train", "magical --epochs 2 --param lr=0.1 --into job", CELL)

    assert handle is shell.user_ns["job"]
    assert handle.record.phase == "finished"
    assert "step 16 of 16" in repr(handle)
    assert "magical-1" in repr(shell.run_line_magic("train", "list"))
    assert shell.run_line_magic("train", "attach magical-1").id == handle.id
    assert repr(shell.run_line_magic("train", "logs magical")) == "nothing was printed"
    assert shell.run_line_magic("train", "register magical").reference == "magical/1"


@pytest.mark.parametrize("options", ["", "--dry-run"])
def test_a_disk_with_no_room_is_one_line(shell: Any, workspace: Workspace, options: str) -> None:
    """And nothing is left: no folder, no job. The kernel refuses the data's file as it would on a full disk."""
    shell.push({"many": np.zeros(4_000_000, np.float64)})
    with (
        files_of_at_most(16_000_000),
        pytest.raises(StoreError, match=r"could not be written or read: File too large - let files be larger"),
    ):
        shell.run_cell_magic("train", f"roomless {options}", "many.sum()")

    training = workspace.context.folder("training")
    assert [*training.glob("jobs/roomless-*"), *training.glob("dry-runs/*")] == []
    assert "roomless" not in repr(shell.run_line_magic("train", "list"))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_failing_cell_raises_one_short_error(shell: Any) -> None:
    """The line is the notebook cell's own: the magic is line 1."""
    with pytest.raises(JobFailed, match=r"failed on rank 0: ZeroDivisionError: .* - cell line 3: 1 / 0"):
        shell.run_cell_magic("train", "failing-magic", "x = 1\n1 / 0\n")


@pytest.mark.parametrize(
    ("line", "cell", "message"),
    [
        ("", CELL, "model"),
        ("Digits", CELL, "LATIN CAPITAL LETTER D"),
        ("digits --proceses 2", CELL, "did you mean '--processes'"),
        ("digits --processes two", CELL, "processes"),
        ("digits --processes 0", CELL, "from 1 to 256"),
        ("digits --param lr", CELL, "has no value"),
        ("digits", "\n", r"empty.*cell line 2"),
        ("digits", "fit(\n", r"cell line 2: fit\("),
        ("digits", "!ls\n", "magics or shell commands"),
        ("digits", "fit(modle)\n", r"'modle' \(line 2"),
        ("digits --checkpoint-every often", CELL, "checkpoint_every"),
        ('digits --param "lr=1', CELL, "unclosed quote"),
    ],
)
def test_refused(shell: Any, line: str, cell: str, message: str) -> None:
    """One clear error, no job."""
    before = repr(shell.run_line_magic("train", "list"))
    with pytest.raises(InvalidInput, match=message):
        shell.run_cell_magic("train", line, cell)

    assert repr(shell.run_line_magic("train", "list")) == before


def test_one_percent_sign_too_few(shell: Any) -> None:
    """`%train MODEL` explains `%%train`."""
    with pytest.raises(InvalidInput, match="%%train \\(two signs\\)"):
        shell.run_line_magic("train", "digits --no-wait")
    with pytest.raises(InvalidInput, match="needs a job"):
        shell.run_line_magic("train", "logs")


def test_help(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` prints the manual."""
    shell.run_cell_magic("train", "--help", "x = 1")

    assert "--processes" in capsys.readouterr().out
