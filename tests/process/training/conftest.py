"""A small training cell, and what an unbroken run of it gives."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from mlcycle_nb.supervisor.processes import MARKER
from mlcycle_nb.training import carry
from mlcycle_nb.training.cell import read_cell, resolve
from mlcycle_nb.training.checkpoints import CheckpointStore
from mlcycle_nb.training.events import EventReader
from mlcycle_nb.training.job_folder import JobFolder, JobSpec
from mlcycle_nb.training.launch import plan_launch
from mlcycle_nb.workspace import Workspace

CELL = """
import os
import time

model = torch.nn.Sequential(
    torch.nn.Linear(20, 32), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(32, 3)
)
optimizer = torch.optim.Adam(model.parameters(), lr=params.lr)

seen = 0

def collate(rows):
    global seen
    seen += 1
    while seen > params.get("hold_at", 0) and not os.path.exists(params.get("hold_until", "/")):
        time.sleep(0.02)
    return torch.utils.data.default_collate(rows)

class Noisy(torch.utils.data.Dataset):
    def __len__(self):
        return len(rows)
    def __getitem__(self, row):
        return rows[row] + 0.01 * torch.randn(20), labels[row]

fit(
    model,
    optimizer,
    torch.utils.data.DataLoader(Noisy(), batch_size=16, shuffle=True, collate_fn=collate),
    torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows, labels), batch_size=64),
    loss=torch.nn.CrossEntropyLoss(),
    scheduler=torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
    clip_norm=1.0,
    reference=rows,
    reference_labels=labels,
)
"""


def names() -> dict[str, Any]:
    """What the notebook has defined."""
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(400, 20, generator=generator)
    return {"torch": torch, "rows": rows, "labels": (rows[:, 0] > 0).long() + (rows[:, 1] > 0).long()}


def weights(folder: JobFolder) -> dict[str, torch.Tensor]:
    """Return the tensors of the newest checkpoint: model and optimizer."""
    store = CheckpointStore(folder.checkpoints)
    newest = store.newest_verified().newest
    assert newest is not None
    return store.load(newest)[0]


def losses(folder: JobFolder) -> dict[tuple[int, int], float]:
    """Return the last loss told for each rank and step."""
    found = {}
    for event in EventReader(folder.events).read():
        if event["kind"] == "steps":
            found.update({(event["rank"], step): loss for step, loss, _ in event["rows"]})
    return found


def until(condition: Callable[[], Any], *, seconds: float = 200.0) -> Any:
    """Return what `condition` gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)
    return found


def held(gate: Path, at: int = 8) -> dict[str, Any]:
    """Return parameters with which the cell stands still after `at` batches until the file `gate` is there."""
    return {"lr": 0.01, "hold_at": at, "hold_until": str(gate)}


def folder_of(workspace: Workspace, job: str) -> JobFolder:
    """Return the folder of a job."""
    return JobFolder(workspace.home / "training" / "jobs" / job)


def run_alone(path: Path, cell: str, namespace: dict[str, Any], processes: int, **options: Any) -> JobFolder:
    """Run a cell under torchrun, without a supervisor, to its end."""
    folder = JobFolder(path)
    folder.make()
    carry.write(folder.payload, *carry.pack(resolve(read_cell(cell), namespace)))
    folder.cell.write_text(cell)
    spec: dict[str, Any] = {
        "job": "alone-1",
        "model": "alone",
        "processes": processes,
        "epochs": 3,
        "params": {"lr": 0.01},
        "seed": 0,
        "device": "cpu",
        "threads": max(1, len(os.sched_getaffinity(0)) // processes),
        "mixed_precision": "no",
        "gradient_accumulation": 1,
        "checkpoint_every_steps": 5,
        "checkpoint_every_seconds": 0.0,
        "keep_last": 2,
        "keep_best": 1,
        "python": sys.executable,
        "cwd": str(path),
    }
    folder.write_spec(JobSpec(**{**spec, **options}))
    plan = plan_launch(folder, folder.read_spec(), 1)
    ended = subprocess.run(plan.argv, env={**os.environ, **plan.env}, capture_output=True, text=True)
    assert ended.returncode == 0, folder.output_of(0).read_text() + ended.stderr
    return folder


@pytest.fixture(scope="module", autouse=True)
def keys_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the tests of a module away from the user's own keys."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("keys")
        patch.setenv("MLCYCLE_KEYS", str(folder))
        yield folder


@pytest.fixture(scope="module")
def workspace(keys_of_their_own: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """One workspace for the tests of a module: making MLflow's database takes longer than a job."""
    opened = Workspace.open(tmp_path_factory.mktemp("workspace") / ".mlcycle")
    yield opened
    opened.down()
    left = [p.cmdline() for p in psutil.process_iter() if _marked(p, opened.context.workspace_id)]
    opened.close()
    assert not left, f"processes left behind: {left}"


def _marked(process: psutil.Process, workspace_id: str) -> bool:
    try:
        return process.environ().get(MARKER, "").startswith(f"{workspace_id}/")
    except psutil.Error:
        return False


@pytest.fixture(scope="session", params=[1, 2], ids=["1 process", "2 processes"])
def unbroken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, JobFolder]:
    """The number of processes, and an unbroken run of the cell with as many."""
    return request.param, run_alone(tmp_path_factory.mktemp("alone") / "job", CELL, names(), request.param)
