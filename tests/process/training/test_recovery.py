"""Whatever is killed, training ends with the weights and losses of an unbroken run, to the bit."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
import torch

from mlcycle_nb.supervisor.start import find_supervisor
from mlcycle_nb.training.checkpoints import CheckpointStore
from mlcycle_nb.training.job_folder import JobFolder
from mlcycle_nb.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent))

from conftest import CELL, folder_of, held, losses, names, until, weights

pytestmark = pytest.mark.timeout(280)


def start(workspace: Workspace, processes: int, gate: Path) -> str:
    """Start a job and return when it stands still in the middle of an epoch, after a checkpoint."""
    handle = workspace.training.train_model(
        "digits", CELL, names(), processes=processes, epochs=3, params=held(gate), checkpoint_every="5"
    )
    folder = folder_of(workspace, handle.id)
    until(CheckpointStore(folder.checkpoints).records)
    return handle.id


def launcher(workspace: Workspace, job: str, attempt: int) -> psutil.Process:
    identity = workspace.context.processes.get(f"training-{job}-{attempt}")
    assert identity is not None, workspace.training.job(job)
    return psutil.Process(identity.pid)


def assert_as_unbroken(folder: JobFolder, reference: JobFolder) -> None:
    ours, theirs = weights(folder), weights(reference)

    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert losses(folder) == losses(reference)


@pytest.mark.parametrize("victim", ["worker", "launcher"])
def test_killed_mid_epoch(workspace: Workspace, unbroken: tuple[int, JobFolder], victim: str, tmp_path: Path) -> None:
    """After kill -9 a fresh torchrun goes on from the newest checkpoint, and nobody of the first is left."""
    processes, reference = unbroken
    gate = tmp_path / "gate"
    job = start(workspace, processes, gate)
    first = launcher(workspace, job, 1)
    family = [first, *first.children(recursive=True)]
    workers = [p for p in family if "mlcycle_nb.training.worker" in p.cmdline() and p != first]
    doomed = workers[-1] if victim == "worker" else first
    doomed.kill()
    psutil.wait_procs([doomed], timeout=60)
    gate.touch()

    record = workspace.training.attach(job).wait(200)

    assert record.phase == "finished"
    assert [restart.attempt for restart in record.restarts] == [1]
    assert record.restarts[0].from_step is not None
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
    assert_as_unbroken(folder_of(workspace, job), reference)


def test_supervisor_killed(workspace: Workspace, unbroken: tuple[int, JobFolder], tmp_path: Path) -> None:
    """Training goes on without it; the next one adopts the living job and does not start it again."""
    processes, reference = unbroken
    gate = tmp_path / "gate"
    job = start(workspace, processes, gate)
    supervisor = find_supervisor(workspace.home)
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    gate.touch()
    folder = folder_of(workspace, job)
    until(lambda: max(step for _, step in losses(folder)) > 8)  # it stood still after its eighth

    workspace.context.ensure_supervisor()
    record = workspace.training.attach(job).wait(200)

    assert record.phase == "finished"
    assert (record.attempt, record.restarts) == (1, ())
    assert_as_unbroken(folder, reference)


def test_down_and_up_again(workspace: Workspace, unbroken: tuple[int, JobFolder], tmp_path: Path) -> None:
    """`down` ends the workers; when the supervisor is back, the job goes on from its newest checkpoint."""
    processes, reference = unbroken
    if processes == 2:
        pytest.skip("the same path as with one process, and a minute of two cores")
    gate = tmp_path / "gate"
    job = start(workspace, processes, gate)
    workspace.down()
    gate.touch()
    assert workspace.training.job(job).phase == "running"

    workspace.context.ensure_supervisor()
    record = workspace.training.attach(job).wait(200)

    assert record.phase == "finished"
    assert [restart.attempt for restart in record.restarts] == [1]
    assert_as_unbroken(folder_of(workspace, job), reference)
