"""Unmodified Accelerate scripts, and scripts that use our loops, in real jobs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import accelerate.test_utils
import pytest

from mlcycle_nb.errors import InvalidInput, JobFailed
from mlcycle_nb.training.handle import raise_if_failed
from mlcycle_nb.training.magic import TrainingMagics
from mlcycle_nb.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent))

from conftest import folder_of, until

pytestmark = pytest.mark.timeout(280)

PUBLISHED = Path(accelerate.test_utils.__file__).parent / "scripts"

# The shape of Accelerate's examples for computer vision, tracking and gradient accumulation, on scikit-learn's digits.
DIGITS = """
import argparse
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from digits_net import build


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--project", required=True)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()
    accelerator = Accelerator(log_with="mlflow", project_dir=args.project)
    accelerator.init_trackers("digits-of-the-script", config=vars(args))
    set_seed(args.seed)
    digits = load_digits()
    images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    train = DataLoader(TensorDataset(images[:1400], labels[:1400]), batch_size=50, shuffle=True)
    test = DataLoader(TensorDataset(images[1400:], labels[1400:]), batch_size=100)
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    model, optimizer, train, test = accelerator.prepare(model, optimizer, train, test)
    for epoch in range(2):
        for inputs, target in train:
            with accelerator.accumulate(model):
                loss = torch.nn.functional.cross_entropy(model(inputs), target)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
        right = 0
        for inputs, target in test:
            right += accelerator.gather_for_metrics(model(inputs).argmax(1) == target).sum().item()
        accelerator.log({"accuracy": right / 397}, step=epoch)
        accelerator.print("world", accelerator.num_processes, "accumulates", accelerator.gradient_accumulation_steps)
    accelerator.end_training()


if __name__ == "__main__":
    main()
"""
NET = """
import torch


def build():
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
"""


@pytest.fixture
def shell(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The magics, in a shell without a front end."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    from IPython.core.interactiveshell import InteractiveShell

    from mlcycle_nb.notebook.magics import register

    InteractiveShell.clear_instance()
    running = InteractiveShell.instance()
    register(running, [TrainingMagics(running, lambda: workspace)])
    yield running
    running.history_manager.end_session()
    InteractiveShell.clear_instance()


def test_a_published_script_in_two_processes(shell: Any, workspace: Workspace) -> None:
    """What Accelerate tests its own collectives with runs unmodified, and sees a world of two on loopback."""
    handle = shell.run_cell_magic("train", f"ops --script {PUBLISHED / 'test_ops.py'} --processes 2", "# no cell\n")

    assert handle.record.phase == "finished"
    said = workspace.training.logs(handle.id, rank=0)
    assert "Num processes: 2" in said
    assert "Backend: gloo" in said
    assert workspace.training.progress(handle.id).read().world == 2


@pytest.mark.faults
def test_published_gradient_accumulation(workspace: Workspace) -> None:
    """Accelerate's own check of when gradients are synchronised."""
    handle = workspace.training.train_script("sync", PUBLISHED / "test_sync.py", processes=2)

    assert handle.result(250).phase == "finished"


def test_trackers_log_to_our_run(shell: Any, workspace: Workspace, tmp_path: Path) -> None:
    """Metrics and parameters of `log_with="mlflow"` are in the job's run, and no other experiment is made."""
    script = tmp_path / "train digits.py"
    script.write_text(DIGITS)
    (tmp_path / "digits_net.py").write_text(NET)
    line = f"digits --script '{script}' --processes 2 --gradient-accumulation 2 -- --project '{tmp_path}' --seed 7"

    handle = shell.run_line_magic("train", line)

    record = handle.record
    run = workspace.development.run(record.run_id)
    accuracy = workspace.development.tracking.metric_history(record.run_id, "accuracy")
    assert record.phase == "finished"
    assert record.script_args == ("--project", str(tmp_path), "--seed", "7")
    assert run.parameters["seed"] == "7"
    assert [row.step for row in accuracy] == [0, 1]
    assert accuracy[-1].value > 0.7
    assert run.status == "finished"
    assert "digits-of-the-script" not in {each.name for each in workspace.development.tracking.experiments()}
    assert workspace.development.provenance(record.run_id).cell == DIGITS
    assert "world 2 accumulates 2" in workspace.training.logs(record.id, rank=0)


FITTING = """
import glob, os, signal, sys
import torch
from mlcycle_nb.training import fit, log, params

died = sys.argv[1]
rows = torch.randn(120, 4, generator=torch.Generator().manual_seed(1))
data = torch.utils.data.TensorDataset(rows, (rows[:, 0] > 0).long())
model = torch.nn.Linear(4, 2)

def collate(batch):
    if not os.path.exists(died) and glob.glob(params.checkpoints):
        open(died, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return torch.utils.data.default_collate(batch)

fit(model, torch.optim.SGD(model.parameters(), lr=params.lr),
    torch.utils.data.DataLoader(data, batch_size=10, shuffle=True, collate_fn=collate),
    loss=torch.nn.CrossEntropyLoss())
"""


def test_our_loop_in_a_module(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`fit` from a module: killed in the middle it resumes from its checkpoint, and the model can be registered."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "fitting_module.py").write_text(FITTING)
    expected = workspace.context.folder("training", "jobs") / "fitted-1" / "checkpoints"

    handle = workspace.training.train_script(
        "fitted",
        module="fitting_module",
        arguments=[str(tmp_path / "died")],
        epochs=2,
        params={"lr": 0.1, "checkpoints": f"{expected}/[!.]*"},
        checkpoint_every="3",
    )
    record = handle.result(250)

    assert handle.id == "fitted-1"
    assert (record.steps, record.handed_over) == (24, True)
    assert [restart.attempt for restart in record.restarts] == [1]
    assert record.restarts[0].from_step is not None
    assert workspace.training.register(record.id).reference == "fitted/1"


CASES = """
import os, sys, time
from accelerate import PartialState

def fails(state):
    if state.process_index == 1:
        raise ValueError("no such label: 9")
    time.sleep(60)

what = sys.argv[1]
if what == "alone":
    sys.exit(0)
state = PartialState()
if what == "raises":
    fails(state)
if what == "usage":
    print("train.py: error: unrecognized arguments: --lrr", file=sys.stderr)
    sys.exit(2)
open(sys.argv[2] + str(state.process_index), "w").close()
time.sleep(200)
"""


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("raises", r"failed on rank 1: ValueError: no such label: 9 - cases\.py:7: raise ValueError"),
        ("usage", r"exit status 2; it last said: train.py: error: unrecognized arguments: --lrr - cases\.py:18"),
        ("alone", r"formed no process group: each of the 2 processes ran all of it alone"),
    ],
)
def test_a_script_that_fails(workspace: Workspace, tmp_path: Path, what: str, message: str) -> None:
    """One clear line with the script's own line; it is not tried again."""
    script = tmp_path / "cases.py"
    script.write_text(CASES)
    record = workspace.training.train_script("cases", script, [what], processes=2).wait(200)

    assert (record.phase, record.attempt) == ("failed", 1)
    with pytest.raises(JobFailed, match=message) as raised:
        raise_if_failed(record)
    if what == "raises":
        assert "---> 7         raise ValueError" in raised.value.traceback.replace("-->", "--->").replace(
            "---->", "--->"
        )


def test_stop(workspace: Workspace, tmp_path: Path) -> None:
    """A script that knows nothing of us is interrupted as by Ctrl-C, and the job has stopped."""
    script = tmp_path / "cases.py"
    script.write_text(CASES)
    handle = workspace.training.train_script("stopping", script, ["waits", str(tmp_path / "up-")], processes=2)
    again = workspace.training.train_script("stopping", script, ["waits", str(tmp_path / "up-")], processes=2)
    until(lambda: (tmp_path / "up-0").exists() and (tmp_path / "up-1").exists())
    handle.stop("enough")

    record = handle.wait(100)
    assert (again.attached, again.id) == (True, handle.id)
    assert (record.phase, record.attempt, record.failure) == ("stopped", 1, None)
    assert not list(folder_of(workspace, handle.id).errors.iterdir())


@pytest.mark.parametrize(
    ("kind", "line", "cell", "message"),
    [
        ("cell", "m --script absent.py", "# empty\n", "no such script"),
        ("cell", "m --script absent.py", "x = 1\n", "a cell and a script"),
        ("cell", "m -- --lr 1", "x = 1\n", "a cell has no arguments"),
        ("line", "m --script", "", "expected one argument"),
        ("line", "m --module absent_package.run", "", "no such module"),
        ("line", "m --script a.py --module b", "", "either a script or a module"),
        ("line", "digits --processes 2", "", r"did you mean %%train digits --processes 2\? %%train \(two signs\)"),
        ("line", "lgos digits-1", "", "did you mean 'logs'"),
    ],
)
def test_refused(shell: Any, workspace: Workspace, kind: str, line: str, cell: str, message: str) -> None:
    """No job is made."""
    before = len(workspace.training.jobs())
    with (
        pytest.raises(InvalidInput, match=message)
        if "no such" not in message
        else pytest.raises(LookupError, match=message)
    ):
        if kind == "cell":
            shell.run_cell_magic("train", line, cell)
        else:
            shell.run_line_magic("train", line)

    assert len(workspace.training.jobs()) == before


def test_an_earlier_cell_is_to_blame(shell: Any) -> None:
    """The notebook shows the training cell and the earlier one that it called, with their numbers."""
    shell.run_cell("def pick(rows):\n    return rows[7]\n\nclass Store:\n    rows = [1]\n", store_history=True)
    cell = "import pickle\nassert pickle.loads(pickle.dumps(Store)) is Store\npick(Store.rows)\n"
    failure = shell.run_cell(f"%%train blamed\n{cell}", store_history=True).error_in_exec

    assert isinstance(failure, JobFailed)
    assert "IndexError" in str(failure)
    assert "cell line 4: pick(Store.rows)" in str(failure)
    assert "Cell In[2], line 4\n" in failure.traceback
    assert "Cell In[1], line 2, in pick\n      1 def pick(rows):\n----> 2     return rows[7]" in failure.traceback
