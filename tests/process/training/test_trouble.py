"""Trouble in real workers: named, recorded, handled as the job says, and never best."""

from __future__ import annotations

import math
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlcycle_nb.store.audit import entries
from mlcycle_nb.training.records import TrainingJob
from mlcycle_nb.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent))

from conftest import folder_of, losses, names, until

pytestmark = pytest.mark.timeout(280)

CELL = """
calls, row_numbers = 0, None

def forward(model, batch):
    global row_numbers
    inputs, target, row_numbers = batch
    return model(inputs), target

def loss(output, target):
    global calls
    calls += 1
    value = torch.nn.functional.cross_entropy(output, target)
    return value * 1e39 if (row_numbers == params.bad_row).any() else value

data = torch.utils.data.TensorDataset(rows, labels, torch.arange(len(rows)))
model = torch.nn.Linear(20, 3)
fit(model, torch.optim.SGD(model.parameters(), lr=0.05),
    torch.utils.data.DataLoader(data, batch_size=10, shuffle=True), loss=loss, forward=forward,
    clip_norm=params.get("clip"))
"""
STUCK = """
import os
import time

taken = 0
def collate(batch):
    global taken
    taken += 1
    while taken == 5 and accelerator.process_index == params.rank and not os.path.exists(params.gate):
        open(params.gate + ".here", "w").close()
        time.sleep(60)
    return torch.utils.data.default_collate(batch)

model = torch.nn.Linear(20, 3)
fit(model, torch.optim.SGD(model.parameters(), lr=0.05),
    torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows, labels), batch_size=20, collate_fn=collate),
    loss=torch.nn.CrossEntropyLoss())
"""
GREEDY = """
fit(torch.nn.Linear(20, 3), None, None, loss=None) if False else torch.empty(2**45)
"""


def train(workspace: Workspace, model: str, cell: str = CELL, **options: Any) -> TrainingJob:
    """Run a job to its end."""
    return workspace.training.train_model(model, cell, names(), **options).wait(150)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bad_batch_is_rolled_back_and_passed_over(workspace: Workspace, processes: int) -> None:
    """A loss of NaN poisons the weights; training goes on from before it without the batches that led to it."""
    record = train(
        workspace,
        "rolled",
        processes=processes,
        epochs=2,
        params={"bad_row": 123},
        checkpoint_every="5",
        on_trouble={"non_finite": "rollback", "non_finite_gradient": "rollback"},
    )

    assert record.phase == "finished", record
    assert {back.epoch for back in record.rollbacks} == {0, 1}  # the bad row comes once in each epoch
    assert len(record.restarts) == len(record.rollbacks) == 2
    for back, restart in zip(record.rollbacks, record.restarts, strict=True):
        assert "became inf at step" in back.why or "became nan at step" in back.why
        assert restart.why == (
            f"{back.why}; rolled back, passing over batches {back.first_batch} to {back.last_batch} "
            f"of epoch {back.epoch + 1}"
        )
    assert all(math.isfinite(loss) for loss in losses(folder_of(workspace, record.id)).values())
    audited = [entry.body for entry in entries(workspace.context.store) if record.id in entry.body]
    assert sum("training.rolled_back" in body for body in audited) == 2


def test_roll_backs_come_to_an_end(workspace: Workspace) -> None:
    """What always diverges is rolled back as often as asked, and then fails; nothing of it is best."""
    record = train(
        workspace,
        "diverges",
        params={"bad_row": -1},
        cell=CELL.replace("lr=0.05", "lr=1e38"),
        on_trouble={"non_finite": "rollback"},
        max_rollbacks=1,
    )

    assert record.phase == "failed"
    assert record.failure is not None
    assert record.failure.kind == "non_finite"
    assert record.failure.message.endswith("; it had been rolled back once before")
    assert workspace.training.checkpoints(record.id) == []


def test_a_gradient_is_named(workspace: Workspace) -> None:
    """With clip_norm each norm is looked at, before it reaches the weights."""
    cell = CELL.replace(
        "return value * 1e39 if (row_numbers == params.bad_row).any() else value",
        "return value + torch.sqrt((output[:1] * 0).abs()).sum() if calls == 7 else value",
    )
    record = train(workspace, "gradient", cell, params={"bad_row": -1, "clip": 1.0}, checkpoint_every="1")

    assert record.phase == "failed"
    assert record.failure is not None
    assert record.failure.kind == "non_finite_gradient"
    assert "the gradient's norm became nan at step 7 of epoch 1 on rank 0" in record.failure.message
    assert workspace.training.checkpoints(record.id)[0].step == 6


@pytest.mark.parametrize("how", ["asleep", "suspended"])
def test_a_stall_is_named_and_recovered_from(workspace: Workspace, tmp_path: Path, how: str) -> None:
    """The rank that holds the others up is named with its line; the workers are started again."""
    gate = tmp_path / "gate"
    params = {"rank": 1 if how == "asleep" else -1, "gate": str(gate)}
    options: dict[str, Any] = {"stall": "10s", "checkpoint_every": "1"}
    cell = STUCK if how == "asleep" else STUCK.replace("return torch.utils", "time.sleep(0.6)\n    return torch.utils")
    handle = workspace.training.train_model("stalled", cell, names(), processes=2, params=params, **options)
    if how == "suspended":
        folder = folder_of(workspace, handle.id)
        until(lambda: losses(folder))
        identity = workspace.context.processes.get(f"training-{handle.id}-1")
        assert identity is not None
        ranks = psutil.Process(identity.pid).children()
        next(rank for rank in ranks if rank.environ()["RANK"] == "1").send_signal(signal.SIGSTOP)
    else:
        until(gate.with_name("gate.here").exists)
        until(lambda: workspace.training.job(handle.id).restarts or None)
        gate.touch()

    record = handle.result(150)
    assert len(record.restarts) == 1
    why = record.restarts[0].why
    assert why.startswith("no step for ")
    assert "rank 1 is stuck after step" in why
    if how == "asleep":
        assert "it stands in collate (<train stalled>:" in why
        assert record.restarts[0].from_step == 4
    else:
        assert why.endswith("its process is suspended (SIGSTOP)")


def test_out_of_memory_is_named_with_what_was_asked_for(workspace: Workspace) -> None:
    """And with the remedy; it is not tried again."""
    record = train(workspace, "greedy", GREEDY)

    assert record.phase == "failed"
    assert record.failure is not None
    assert record.failure.kind == "out_of_memory"
    assert str(4 * 2**45) in record.failure.message
    assert "the process held" in record.failure.message
    assert "--gradient-accumulation" in record.failure.message
    assert record.restarts == ()
