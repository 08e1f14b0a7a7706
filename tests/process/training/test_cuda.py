"""Training on a GPU; runs where torch finds one, and says so where not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from mlcycle_nb.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent))

from conftest import folder_of, names, run_alone, weights

pytestmark = [
    pytest.mark.timeout(280),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here"),
]
# Dropout draws on the GPU and the shuffled order on the host: both have to go on where they stood.
CELL = """
import os, signal
model = torch.nn.Sequential(torch.nn.Linear(20, 32), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(32, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
loader = torch.utils.data.DataLoader(
    torch.utils.data.TensorDataset(rows, labels), batch_size=16, shuffle=True, pin_memory=True
)
steps = 0

def forward(model, batch):
    global steps
    inputs, target = batch
    assert inputs.device.type == next(model.parameters()).device.type == "cuda"
    steps += 1
    if params.get("die") and steps == 33 and not os.path.exists(params.die):
        open(params.die, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return model(inputs), target

fit(model, optimizer, loader, loss=torch.nn.CrossEntropyLoss(), forward=forward)
"""


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_killed_run_goes_on_to_the_bit(workspace: Workspace, tmp_path: Path, precision: str) -> None:
    """The generator of the GPU is in the checkpoints, and mixed precision's scaler where there is one."""
    alone = run_alone(tmp_path / "alone", CELL, names(), 1, device="cuda", mixed_precision=precision)
    handle = workspace.training.train_model(
        "gpu",
        CELL,
        names(),
        epochs=3,
        params={"lr": 0.01, "die": str(tmp_path / f"died-{precision}")},
        device="cuda",
        mixed_precision=precision,
        checkpoint_every="5",
    )
    record = handle.result(200)

    ours, theirs = weights(folder_of(workspace, handle.id)), weights(alone)
    (restart,) = record.restarts
    assert restart.from_step in {25, 30}  # the newest one may not have been on the disk yet
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_dry_run_tells_the_gpu_s_memory(workspace: Workspace) -> None:
    """What tensors took, what torch had set aside, and which GPU it was."""
    found = workspace.training.dry_run("gpu", CELL, names(), device="auto", mixed_precision="bf16")

    (rank,) = found.ranks
    assert found.device == "cuda"
    assert rank.gpu == torch.cuda.get_device_name(0)
    assert rank.gpu_bytes is not None
    assert 0 < rank.gpu_bytes <= (rank.gpu_reserved_bytes or 0)
    assert rank.gpu in repr(found)


def test_two_processes_use_nccl(workspace: Workspace) -> None:
    """Each process has a GPU of its own."""
    if torch.cuda.device_count() < 2:
        pytest.skip(f"two processes need two GPUs, torch finds {torch.cuda.device_count()}")
    found = workspace.training.dry_run("gpu", CELL, names(), processes=2, device="cuda")

    assert (found.world_size, found.backend) == (2, "nccl")
