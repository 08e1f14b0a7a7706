"""Jobs from submission to registered version, with real workers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlcycle_nb.errors import InvalidInput, NotFound, Refused
from mlcycle_nb.training.handle import raise_if_failed
from mlcycle_nb.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent))

from conftest import CELL, folder_of, held, losses, names, run_alone, until, weights

pytestmark = pytest.mark.timeout(280)

SHORT = """
model = torch.nn.Linear(20, 3)
fit(model, torch.optim.SGD(model.parameters(), lr=params.get("lr", 0.1)),
    torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows, labels), batch_size=50),
    loss=torch.nn.CrossEntropyLoss(), class_names=["low", "mid", "high"])
print("rank", accelerator.process_index, "is done")
"""


class TestSubmission:
    """The same cell is one job while it runs."""

    def test_attach_finish_register(self, workspace: Workspace, tmp_path: Path) -> None:
        """Run twice quickly it attaches; finished, it has metrics, a run and a version; run again it is a new job."""
        training, gate = workspace.training, tmp_path / "gate"
        params = held(gate)
        handle = training.train_model("digits", CELL, names(), epochs=2, params=params, register=True)
        again = training.train_model("digits", CELL, names(), epochs=2, params=params)
        other = training.train_model("digits", SHORT, names(), processes=2)

        assert (handle.attached, again.attached, again.id) == (False, True, handle.id)
        assert other.id != handle.id
        gate.touch()
        record = handle.result(200)
        assert record.phase == "finished"
        assert record.steps == 50
        assert record.metrics["val_accuracy"] > 0.3
        assert record.registered == "digits/1"
        self.check_version(workspace)
        self.check_run(workspace, record.run_id)
        assert "step 50 of 50" in repr(handle.panel())
        second = other.result(200)
        assert "rank 1 is done" in training.logs(second.id, rank=1)
        assert "-- rank 0 --" in training.logs(second.id)
        version = training.register(second.id)
        assert version.reference == "digits/2"

        repeated = training.train_model("digits", SHORT, names(), processes=2)
        assert repeated.attached is False
        assert [job.id for job in training.jobs("digits")] == ["digits-3", "digits-2", "digits-1"]
        assert repeated.result(200).metrics == second.metrics
        assert workspace.verify_audit()

    def check_version(self, workspace: Workspace) -> None:
        from mlcycle_nb.packages import PackageStore, load_runtime

        version = workspace.development.get_version("digits/1")
        package = PackageStore(workspace.context.folder("packages")).open(version.package_digest)
        rows = names()["rows"].numpy()
        answers = load_runtime(package).predict({"input": rows})
        assert package.format == "onnx"
        assert np.mean(answers["label"] == names()["labels"].numpy()) > 0.3

    def check_run(self, workspace: Workspace, run_id: str | None) -> None:
        assert run_id is not None
        run = workspace.development.run(run_id)
        history = workspace.development.tracking.metric_history(run_id, "loss")
        assert run.status == "finished"
        assert run.parameters["lr"] == "0.01"
        assert [row.step for row in history] == list(range(1, 51))
        assert "DataLoader" in workspace.development.provenance(run_id).cell


class TestRefusals:
    """Nothing is made of a cell that cannot run."""

    @pytest.mark.parametrize(
        ("cell", "message"),
        [
            ("", "empty"),
            ("fit(", "never closed"),
            ("fit(absent)", "'absent'"),
            ("fit(lock)", r"'lock' .*a _thread\.lock"),
        ],
    )
    def test_before_launch(self, workspace: Workspace, cell: str, message: str) -> None:
        """No record and no folder."""
        import threading

        with pytest.raises(InvalidInput, match=message):
            workspace.training.train_model("refused", cell, {"lock": threading.Lock()})

        assert workspace.training.jobs("refused") == []
        assert not list(workspace.context.folder("training", "jobs").glob("refused*"))

    def test_unknown_job(self, workspace: Workspace) -> None:
        """The message lists what there is, or says how to make one."""
        with pytest.raises(NotFound, match=r"no such training job.*(known:|%%train makes one)"):
            workspace.training.job("absent-1")


FAILING = """
import time
if accelerator.process_index == 1:
    raise ValueError("no such label: 9")
fit(torch.nn.Linear(20, 3), None, None, loss=None) if False else time.sleep(60)
"""
DIVERGING = SHORT.replace("loss=torch.nn.CrossEntropyLoss()", "loss=lambda o, t: o.sum() * float('nan')")


class TestFailures:
    """Errors of the cell are shown once, with their line and rank, and are not tried again."""

    def test_user_error_on_one_rank(self, workspace: Workspace) -> None:
        """The rank that raised is named, not the ones that lost it."""
        record = workspace.training.train_model("failing", FAILING, names(), processes=2).wait(200)

        assert record.phase == "failed"
        assert (record.attempt, record.restarts) == (1, ())
        assert record.failure is not None
        assert (record.failure.rank, record.failure.line) == (1, 4)
        with pytest.raises(RuntimeError, match=r"rank 1: ValueError: no such label: 9 - cell line 4"):
            raise_if_failed(record)
        assert workspace.development.run(str(record.run_id)).status == "failed"
        with pytest.raises(Refused, match="is failed"):
            workspace.training.register(record.id)

    def test_non_finite_loss(self, workspace: Workspace) -> None:
        """Training that diverges stops with the step and a remedy, and leaves no checkpoint with such weights."""
        record = workspace.training.train_model("diverging", DIVERGING, names()).wait(200)

        assert record.phase == "failed"
        assert record.failure is not None
        assert record.failure.kind == "non_finite"
        assert "became nan at step" in record.failure.message or "became inf at step" in record.failure.message
        assert "clip_norm" in record.failure.message
        assert workspace.training.checkpoints(record.id) == []


def test_stop_takes_a_checkpoint(workspace: Workspace, tmp_path: Path) -> None:
    """Two processes stop at the same step, with a checkpoint there."""
    gate = tmp_path / "gate"
    handle = workspace.training.train_model(
        "stopped", CELL, names(), processes=2, epochs=5000, params=held(gate), checkpoint_every="5"
    )
    folder = folder_of(workspace, handle.id)
    until(lambda: max((step for _, step in losses(folder)), default=0) >= 5)

    handle.stop("enough")
    until(folder.stop_request.exists)
    gate.touch()
    record = handle.wait(200)

    steps = losses(folder)
    assert record.phase == "stopped"
    assert max(step for rank, step in steps if rank == 0) == max(step for rank, step in steps if rank == 1)
    assert workspace.training.checkpoints(handle.id)[0].step == max(step for _, step in steps)
    with pytest.raises(Refused, match="has stopped already"):
        handle.stop()


FREE = """
import os, signal
model = torch.nn.Sequential(torch.nn.Linear(20, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows, labels), batch_size=40, shuffle=True)
model, optimizer = accelerator.prepare(model, optimizer)
criterion = torch.nn.CrossEntropyLoss()
for epoch in epochs():
    for number, (inputs, target) in enumerate(batches(loader)):
        if params.get("die") and epoch == 1 and number == 2 and not os.path.exists(params.die):
            open(params.die, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        loss = criterion(model(inputs), target)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        log(loss=loss)
save_model(model, example=rows[:10])
"""


def test_a_loop_of_one_s_own(workspace: Workspace, tmp_path: Path) -> None:
    """A hand-written loop over `epochs()` and `batches()` is resumed to the bit as well."""
    reference = run_alone(tmp_path / "alone", FREE, names(), 1, checkpoint_every_steps=1)
    params: dict[str, Any] = {"die": str(tmp_path / "died")}
    handle = workspace.training.train_model("free", FREE, names(), epochs=3, params=params, checkpoint_every="1")
    record = handle.result(200)

    ours, theirs = weights(folder_of(workspace, handle.id)), weights(reference)
    assert [restart.attempt for restart in record.restarts] == [1]
    assert record.handed_over
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert handle.panel().snapshot().progress.step == 30
