"""A cell with everything that a resume has to put back, and what two runs of it have to have in common."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from mlcycle_nb.training import carry
from mlcycle_nb.training.cell import read_cell, resolve
from mlcycle_nb.training.checkpoints import CheckpointStore
from mlcycle_nb.training.events import EventReader
from mlcycle_nb.training.job_folder import JobFolder, JobSpec
from mlcycle_nb.training.launch import plan_launch

CELL = """
import os
import random
import signal
import time

import numpy

nn = torch.nn
model = nn.Sequential(
    nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 3)
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
schedules = torch.optim.lr_scheduler
scheduler = {
    "none": lambda: None,
    "epoch": lambda: schedules.CosineAnnealingLR(optimizer, 5),
    "step": lambda: schedules.OneCycleLR(optimizer, 0.05, total_steps=400),
    "plateau": lambda: schedules.ReduceLROnPlateau(optimizer, patience=0, threshold=0.2),
}[params.get("schedule", "none")]()

rank = accelerator.process_index
attempt = os.environ["TORCHELASTIC_RUN_ID"].rpartition("-")[2]
log_of_rows = open(os.path.join(params.seen, f"{rank}-{attempt}"), "w", buffering=1)
fetched = []
taken = 0

class Noisy(torch.utils.data.Dataset):
    def __len__(self):
        return len(rows)
    def __getitem__(self, row):
        fetched.append(row)
        noise = torch.randn(20) + random.random() + torch.from_numpy(numpy.random.randn(20)).float()
        return rows[row] + 0.01 * noise, labels[row]

def collate(batch):
    global taken
    print(*fetched, file=log_of_rows)
    fetched.clear()
    taken += 1
    if taken == int(os.environ.get("DIE_AT_BATCH", 0)) and rank == int(os.environ.get("DIE_RANK", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(params.get("pause", 0))
    return torch.utils.data.default_collate(batch)

fit(
    model,
    optimizer,
    torch.utils.data.DataLoader(Noisy(), batch_size=16, shuffle=True, collate_fn=collate),
    torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows, labels), batch_size=64),
    loss=nn.CrossEntropyLoss(),
    scheduler=scheduler,
    clip_norm=1.0,
    best=params.get("best", "val_loss"),
    early_stopping=params.get("early", None),
    reference=rows,
    reference_labels=labels,
)
"""
ROWS, BATCH = 200, 16


def names() -> dict[str, Any]:
    """What the notebook has defined."""
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(ROWS, 20, generator=generator)
    return {"torch": torch, "rows": rows, "labels": (rows[:, 0] > 0).long() + (rows[:, 1] > 0).long()}


def make_job(path: Path, processes: int, *, params: dict[str, Any] | None = None, **options: Any) -> JobFolder:
    """Write a job's folder."""
    folder = JobFolder(path)
    folder.make()
    (path / "seen").mkdir()
    carry.write(folder.payload, *carry.pack(resolve(read_cell(CELL), names())))
    folder.cell.write_text(CELL)
    spec: dict[str, Any] = {
        "job": "alone-1",
        "model": "alone",
        "processes": processes,
        "epochs": 4,
        "params": {"seen": str(path / "seen"), **(params or {})},
        "seed": 3,
        "device": "cpu",
        "threads": max(1, len(os.sched_getaffinity(0)) // processes),
        "mixed_precision": "no",
        "gradient_accumulation": 1,
        "checkpoint_every_steps": 3,
        "checkpoint_every_seconds": 0.0,
        "keep_last": 2,
        "keep_best": 1,
        "python": sys.executable,
        "cwd": str(path),
    }
    folder.write_spec(JobSpec(**{**spec, **options}))
    return folder


def launch(folder: JobFolder, attempt: int, **env: str) -> int:
    """Run one attempt under torchrun, without a supervisor; return its exit status."""
    plan = plan_launch(folder, folder.read_spec(), attempt)
    return subprocess.run(plan.argv, env={**os.environ, **plan.env, **env}, capture_output=True).returncode


def output_of(folder: JobFolder) -> str:
    """Return what the ranks printed, for a failure's message."""
    return "\n".join(path.read_text()[-3000:] for path in sorted(folder.output.glob("rank-*.log")))


def final_state(folder: JobFolder) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return tensors and state of the newest checkpoint."""
    store = CheckpointStore(folder.checkpoints)
    newest = store.newest_verified().newest
    assert newest is not None, output_of(folder)
    return store.load(newest)


def metric_log(folder: JobFolder) -> dict[Any, Any]:
    """Return the losses of each rank and step, and the metrics of each epoch, without what an attempt did in vain."""
    events = list(EventReader(folder.events).read())
    begun = {event["attempt"]: event["step"] for event in events if event["kind"] == "fit"}
    found: dict[Any, Any] = {}
    for attempt, first in sorted(begun.items()):
        found = {key: value for key, value in found.items() if key[2] <= first}
        for event in events:
            if event["attempt"] != attempt:
                continue
            if event["kind"] == "steps":
                for step, loss, count in event["rows"]:
                    found.setdefault(("loss", event["rank"], step), []).append((loss, count))
            elif event["kind"] == "epoch":
                found["epoch", event["epoch"], event["step"]] = event["values"]
    return found


def rows_seen(folder: JobFolder) -> list[list[list[int]]]:
    """Return, for each rank, the rows of each batch that counts: those after the checkpoint went on were lost."""
    spec = folder.read_spec()
    world, every = spec.processes, spec.gradient_accumulation
    length = math.ceil(math.ceil(ROWS / BATCH) / world)  # batches of a rank in an epoch
    updates = math.ceil(length / every)
    starts = {}
    for event in EventReader(folder.events).read():
        if event["kind"] == "fit":
            epoch, step = event["epoch"], event["step"]
            starts[event["attempt"]] = epoch * length + min((step - epoch * updates) * every, length)
    ranks = []
    for rank in range(world):
        history: list[list[int]] = []
        for attempt, start in sorted(starts.items()):
            path = Path(spec.params["seen"]) / f"{rank}-{attempt}"
            lines = path.read_text().splitlines() if path.exists() else []
            assert len(history) >= start, "the attempt went on from further than any before it came"
            history[start:] = [[int(row) for row in line.split()] for line in lines]
        ranks.append(history)
    return ranks


def assert_equal(folder: JobFolder, reference: JobFolder) -> None:
    """Compare weights, everything else in the last checkpoint, the metric log and the rows, to the bit."""
    (ours, our_state), (theirs, their_state) = final_state(folder), final_state(reference)
    assert ours.keys() == theirs.keys()
    different = [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    assert not different, different
    assert our_state == their_state  # scheduler, generators, patience, sums
    assert metric_log(folder) == metric_log(reference)
    assert best_of(folder) == best_of(reference)
    seen = rows_seen(folder)
    assert seen == rows_seen(reference)
    assert_each_row_once(folder, seen)


def best_of(folder: JobFolder) -> list[tuple[int, float | None]]:
    """Return the steps and metrics of the best checkpoints."""
    return [(record.step, record.metric) for record in CheckpointStore(folder.checkpoints).best()]


def assert_each_row_once(folder: JobFolder, seen: list[list[list[int]]]) -> None:
    """Every row comes exactly once in each epoch, over all ranks."""
    length = math.ceil(math.ceil(ROWS / BATCH) / len(seen))
    batches = len(seen[0])
    assert batches % length == 0
    for start in range(0, batches, length):
        rows = [row for history in seen for batch in history[start : start + length] for row in batch]
        assert sorted(rows) == list(range(ROWS)), json.dumps(sorted(rows))
