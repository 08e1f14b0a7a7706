"""Early stopping in real workers, unbroken and killed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from mlcycle_nb.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent))

from conftest import folder_of, losses, names, run_alone, weights

pytestmark = pytest.mark.timeout(280)

CELL = """
import os, signal

class Dies(torch.utils.data.Dataset):
    def __len__(self):
        return len(rows)
    def __getitem__(self, row):
        return rows[row], labels[row]

taken = 0
def collate(batch):
    global taken
    taken += 1
    if params.get("die") and taken == params.die_at and not os.path.exists(params.die):
        open(params.die, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return torch.utils.data.default_collate(batch)

model = torch.nn.Sequential(torch.nn.Linear(20, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
data = torch.utils.data.TensorDataset(rows[:100], labels[:100])
fit(model, optimizer, torch.utils.data.DataLoader(Dies(), batch_size=40, shuffle=True, collate_fn=collate),
    torch.utils.data.DataLoader(data, batch_size=100), loss=torch.nn.CrossEntropyLoss(),
    early_stopping=EarlyStopping(patience=2, min_delta=0.3))
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_ends_early_at_the_same_epoch(workspace: Workspace, tmp_path: Path, processes: int) -> None:
    """Killed while its patience has begun to run out, it ends where the unbroken one ends, with the same weights."""
    reference = run_alone(tmp_path / "alone", CELL, names(), processes, epochs=40, checkpoint_every_steps=1)
    ended = max(step for _, step in losses(reference))
    batches = 10 // processes  # of each rank in an epoch
    assert 3 * batches <= ended < 40 * batches

    params = {"die": str(tmp_path / "died"), "die_at": ended - batches // 2}  # in the last epoch
    handle = workspace.training.train_model(
        "early", CELL, names(), processes=processes, epochs=40, params=params, checkpoint_every="1"
    )
    record = handle.result(200)

    folder = folder_of(workspace, handle.id)
    ours, theirs = weights(folder), weights(reference)
    assert [restart.attempt for restart in record.restarts] == [1]
    assert losses(folder) == losses(reference)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert record.ended_early.startswith("val_loss did not improve by more than 0.3 for 2 epochs in a row")
    assert f"ended early: {record.ended_early}" in repr(record)
    assert f"ended early: {record.ended_early}" in repr(handle.panel())
