"""A signal to any process of a job ends it in a checkpoint, or the job says why it could not."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from mlcycle_nb.errors import Refused
from mlcycle_nb.training.job_folder import JobFolder
from mlcycle_nb.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent))

from conftest import folder_of, losses, names, run_alone, until, weights

pytestmark = pytest.mark.timeout(280)

CELL = """
import os
import time

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return len(rows)
    def __getitem__(self, row):
        return rows[row] + 0.01 * torch.randn(20), labels[row]

held = 0
def loss(output, target):
    global held
    held += 1
    while params.get("gate") and held == params.hold_at and not os.path.exists(params.gate):
        open(f"{params.gate}.{accelerator.process_index}", "w").close()
        time.sleep(params.get("doze", 0.02))
    return torch.nn.functional.cross_entropy(output, target)

model = torch.nn.Sequential(torch.nn.Linear(20, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 3))
fit(model, torch.optim.Adam(model.parameters(), lr=0.01),
    torch.utils.data.DataLoader(Rows(), batch_size=16, shuffle=True, num_workers=params.get("workers", 0)),
    loss=loss)
"""


def start(workspace: Workspace, model: str, gate: Path, *, processes: int = 1, **options: Any) -> tuple[str, JobFolder]:
    """Start a job and return when it stands in the middle of its eighth step."""
    params = {"gate": str(gate), "hold_at": 8, **options.pop("params", {})}
    handle = workspace.training.train_model(
        model, CELL, names(), processes=processes, epochs=3, params=params, checkpoint_every="1h", **options
    )
    folder = folder_of(workspace, handle.id)
    until(lambda: all(gate.with_name(f"{gate.name}.{rank}").exists() for rank in range(processes)))
    return handle.id, folder


def process_of(workspace: Workspace, job: str, which: str, attempt: int = 1) -> psutil.Process:
    """Return the launcher, a rank or a data worker of a job."""
    identity = workspace.context.processes.get(f"training-{job}-{attempt}")
    assert identity is not None
    launcher = psutil.Process(identity.pid)
    if which == "launcher":
        return launcher
    ranks = {int(child.environ()["RANK"]): child for child in launcher.children()}
    if which.startswith("rank"):
        return ranks[int(which.removeprefix("rank "))]
    return ranks[0].children()[0]


def assert_as_unbroken(folder: JobFolder, reference: JobFolder) -> None:
    ours, theirs = weights(folder), weights(reference)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert losses(folder) == losses(reference)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> JobFolder:
    """An unbroken run in two processes."""
    return run_alone(tmp_path_factory.mktemp("alone") / "job", CELL, names(), 2, checkpoint_every_steps=0,
                     checkpoint_every_seconds=3600.0)  # fmt: skip


@pytest.mark.parametrize(
    ("which", "number"),
    [("launcher", signal.SIGUSR1), ("rank 1", signal.SIGINT), ("rank 0", signal.SIGUSR1)],
)
def test_stopped_by_a_signal_and_resumed(
    workspace: Workspace, reference: JobFolder, tmp_path: Path, which: str, number: signal.Signals
) -> None:
    """SIGUSR1 and SIGINT stop the job with a checkpoint; resumed, it ends as if nothing had happened."""
    gate = tmp_path / "gate"
    job, folder = start(workspace, "signals", gate, processes=2)
    process_of(workspace, job, which).send_signal(number)
    until(folder.told_of(1).exists)
    gate.touch()

    stopped = workspace.training.attach(job).wait(120)
    assert stopped.phase == "stopped"
    assert stopped.ending.startswith(f"{number.name} to rank ")
    assert stopped.ending.endswith(f"checkpoint at step {workspace.training.checkpoints(job)[0].step}")
    assert stopped.ending in repr(stopped)
    assert stopped.restarts == ()

    resumed = workspace.training.resume(job)
    record = resumed.result(120)
    assert record.id == job
    assert record.ending == ""
    assert_as_unbroken(folder, reference)
    with pytest.raises(Refused, match="has finished"):
        workspace.training.resume(job)


@pytest.mark.parametrize("which", ["launcher", "data worker"])
def test_sigterm_is_an_interruption(workspace: Workspace, reference: JobFolder, tmp_path: Path, which: str) -> None:
    """A shutdown takes a checkpoint; with ``resume="auto"`` the job goes on from there by itself, to the bit."""
    gate = tmp_path / "gate"
    job, folder = start(workspace, "terminated", gate, processes=2, params={"workers": 1})
    process_of(workspace, job, which).terminate()
    if which == "launcher":
        until(folder.told_of(1).exists)
    gate.touch()

    record = workspace.training.attach(job).result(120)
    (restart,) = record.restarts
    assert restart.why.startswith("SIGTERM to ")
    assert restart.why.endswith(f"checkpoint at step {restart.from_step}")
    assert restart.from_step is not None
    assert record.crashes_in_a_row == 0


def test_a_killed_data_worker_is_replaced(workspace: Workspace, tmp_path: Path) -> None:
    """kill -9 of a data worker: new ones give the very batches that it owed, in the same attempt."""
    gate = tmp_path / "gate"
    alone = run_alone(tmp_path / "alone", CELL, names(), 1, params={"workers": 2})
    job, folder = start(workspace, "lost", gate, params={"workers": 2})
    process_of(workspace, job, "data worker").kill()
    gate.touch()

    handle = workspace.training.attach(job)
    record = handle.result(120)
    assert (record.attempt, record.restarts) == (1, ())
    assert_as_unbroken(folder, alone)
    assert "rank 0 lost a data worker at step" in repr(handle.panel())


def test_a_grace_that_is_too_short(workspace: Workspace, tmp_path: Path) -> None:
    """A step that lasts longer than the grace: the job says that it could not save, and where it stood."""
    job, _ = start(workspace, "held", tmp_path / "never", grace="1s", params={"doze": 100})
    process_of(workspace, job, "rank 0").send_signal(signal.SIGUSR1)

    record = workspace.training.attach(job).wait(120)
    assert record.phase == "stopped"
    assert re.fullmatch(
        r"SIGUSR1 to rank 0, without a new checkpoint: SIGUSR1 asked for the end, and no checkpoint could be taken "
        r"within 1s: rank 0 stood in loss \(<train held>:1[567]\) after step 7; there is no checkpoint",
        record.ending,
    )


def test_running_the_cell_again_after_a_stop(workspace: Workspace, tmp_path: Path) -> None:
    """It goes on with the stopped job; with ``resume="never"`` it is a new one."""
    gate = tmp_path / "gate"
    job, folder = start(workspace, "again", gate)
    workspace.training.stop(job)
    until(folder.told_of(1).exists)  # the worker looks a few times a second
    gate.touch()
    stopped = workspace.training.attach(job).wait(120)
    step = workspace.training.checkpoints(job)[0].step
    assert stopped.ending == f"as asked, checkpoint at step {step}"

    def again(**options: Any) -> Any:
        return workspace.training.train_model(
            "again", CELL, names(), epochs=3, params={"gate": str(gate), "hold_at": 8}, **options
        )

    fresh = again(resume="never")
    assert fresh.id != job
    assert fresh.resumed_from is None
    fresh.result(120)
    third = again()
    assert third.id not in (job, fresh.id)  # the newest of its kind has finished: there is nothing to go on with
    third.stop()
    third.wait(120)


def test_told_before_training(workspace: Workspace) -> None:
    """A signal while the worker is still importing torch is heeded as soon as there is something to save."""
    handle = workspace.training.train_model("early-signal", CELL, names(), epochs=400, checkpoint_every="1h")
    folder = folder_of(workspace, handle.id)
    rank = until(lambda: _rank_or_none(workspace, handle.id))
    until(lambda: _heeds(rank, signal.SIGUSR1))
    rank.send_signal(signal.SIGUSR1)

    record = handle.wait(120)
    assert record.phase == "stopped"
    assert record.ending.endswith("checkpoint at step 1")
    assert losses(folder).keys() == {(0, 1)}


def _rank_or_none(workspace: Workspace, job: str) -> psutil.Process | None:
    try:
        return process_of(workspace, job, "rank 0")
    except (AssertionError, KeyError, psutil.Error):
        return None


def _heeds(process: psutil.Process, number: signal.Signals) -> bool:
    """Tell whether a process has a handler for a signal, from the kernel's own mask."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    raise AssertionError(os.getpid())
