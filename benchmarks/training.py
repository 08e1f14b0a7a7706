"""Training: time to the first step, the loop, and what a checkpoint blocks, each beside the plain way."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlcycle_nb.training import carry
from mlcycle_nb.training.job_folder import JobFolder, JobSpec
from mlcycle_nb.training.launch import plan_launch

ROWS = 32_768
REPEATS = 5

FIRST_STEP_CELL = """
import time
model = torch.nn.Linear(20, 3)
class Stamped(torch.optim.SGD):
    def step(self, closure=None):
        result = super().step(closure)
        if accelerator.is_main_process:
            open(params.stamp, "w").write(str(time.time()))
        raise SystemExit
fit(model, Stamped(model.parameters(), lr=0.1),
    torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows, labels), batch_size=10),
    loss=torch.nn.CrossEntropyLoss())
"""
BARE = """
import os, sys, time, torch
torch.distributed.init_process_group("gloo")
rows, labels = torch.randn(400, 20), torch.randint(0, 3, (400,))
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(20, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
data = torch.utils.data.TensorDataset(rows, labels)
sampler = torch.utils.data.DistributedSampler(data)
for x, y in torch.utils.data.DataLoader(data, batch_size=10, sampler=sampler):
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    if torch.distributed.get_rank() == 0:
        open(sys.argv[1], "w").write(str(time.time()))
    break
torch.distributed.destroy_process_group()
"""


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        print_first_step(root)
        for name, width, batch in (("short", 64, 32), ("medium", 640, 256)):
            print_loop(root / name, name, width, batch)
        print_metric_log(root / "metrics")
        print_checkpoint(root / "checkpoint")


def make_job(path: Path, cell: str, names: dict[str, Any], processes: int, **options: Any) -> JobFolder:
    """Write a job's folder."""
    folder = JobFolder(path)
    path.mkdir(parents=True)
    folder.make()
    carry.write(folder.payload, *carry.pack(names))
    folder.cell.write_text(cell)
    spec: dict[str, Any] = {"job": "bench-1", "model": "bench", "processes": processes, "epochs": 1, "params": {}}
    spec |= {"seed": 0, "device": "cpu", "threads": 1, "mixed_precision": "no", "gradient_accumulation": 1}
    spec |= {"checkpoint_every_steps": 0, "checkpoint_every_seconds": 3600.0, "keep_last": 1, "keep_best": 0}
    spec |= {"python": sys.executable, "cwd": str(path), **options}
    folder.write_spec(JobSpec(**spec))
    return folder


def print_first_step(root: Path) -> None:
    """Compare the time from launch to the end of the first step."""
    import torch

    names = {"torch": torch, "rows": torch.randn(400, 20), "labels": torch.randint(0, 3, (400,))}
    (root / "bare.py").write_text(BARE)
    ours, bare = [], []
    for number in range(3):
        stamp = root / f"ours-{number}"
        folder = make_job(root / f"job-{number}", FIRST_STEP_CELL, names, 2, params={"stamp": str(stamp)})
        plan = plan_launch(folder, folder.read_spec(), 1)
        ours.append(_launch(list(plan.argv), dict(plan.env), stamp))
        stamp = root / f"bare-{number}"
        argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        argv.append(f"--log-dir={root}/logs")  # else it leaves a folder in /tmp
        bare.append(_launch([*argv, str(root / "bare.py"), str(stamp)], {"OMP_NUM_THREADS": "1"}, stamp))
    mine, plain = statistics.median(ours), statistics.median(bare)
    print(f"first step, 2 processes: ours {mine:.2f} s, bare torchrun {plain:.2f} s, ratio {mine / plain:.2f}")


def _launch(argv: list[str], env: dict[str, str], stamp: Path) -> float:
    began = time.time()
    subprocess.run(argv, env={**os.environ, **env}, capture_output=True, check=False)
    return float(stamp.read_text()) - began


def _session(path: Path) -> Any:
    from accelerate import Accelerator

    from mlcycle_nb.training.session import TrainingSession

    folder = make_job(path, "", {}, 1)
    return TrainingSession(folder, folder.read_spec(), Accelerator(cpu=True), 1)


def print_loop(path: Path, name: str, width: int, batch: int) -> None:
    """Compare rows a second of our loop, metrics on, with the same loop written by hand, metrics off."""
    import torch

    torch.set_num_threads(1)
    rows = ROWS if width < 100 else ROWS // 2
    data = torch.utils.data.TensorDataset(torch.randn(rows, 64), torch.randint(0, 10, (rows,)))

    def parts() -> tuple[Any, Any, Any]:
        torch.manual_seed(0)
        nn = torch.nn
        model = nn.Sequential(
            nn.Linear(64, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 10),
        )
        loader = torch.utils.data.DataLoader(data, batch_size=batch, shuffle=True)
        return model, torch.optim.Adam(model.parameters()), loader

    loss = torch.nn.CrossEntropyLoss()
    ours, by_hand = [], []
    for number in range(REPEATS):
        by_hand.append(_timed(lambda: _hand_written(*parts(), loss)))
        session = _session(path / str(number))
        ours.append(_timed(lambda session=session: _built_in(session, *parts(), loss)))  # type: ignore[misc]
    mine, plain = statistics.median(ours), statistics.median(by_hand)
    step = plain / (rows / batch) * 1000
    print(f"loop, {name} steps ({step:.2f} ms): {plain / mine:.2f} of the hand-written Accelerate loop")


def _hand_written(model: Any, optimizer: Any, loader: Any, loss: Any) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for inputs, target in loader:
        value = loss(model(inputs), target)
        accelerator.backward(value)
        optimizer.step()
        optimizer.zero_grad()


def _built_in(session: Any, model: Any, optimizer: Any, loader: Any, loss: Any) -> None:
    from mlcycle_nb.training.loop import Fit

    Fit(
        session,
        model,
        optimizer,
        loader,
        None,
        loss=loss,
        scheduler=None,
        epochs=1,
        metrics=None,
        forward=None,
        on_checkpoint=None,
        best=None,
        higher_is_better=None,
        clip_norm=None,
        scheduler_step="auto",
    ).run()


def _timed(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def print_metric_log(path: Path) -> None:
    """Tell what one more logged step costs, beside MLflow's own call for it into a SQLite database."""
    from mlflow import MlflowClient

    from mlcycle_nb.training.events import EventWriter

    path.mkdir()
    steps = 200_000
    writer = EventWriter(path / "rank-0.jsonl", rank=0, attempt=1)
    began = time.perf_counter()
    for step in range(steps):
        writer.step(0, step, 0.5, 32)
    writer.close()
    mine = (time.perf_counter() - began) / steps
    client = MlflowClient(f"sqlite:///{path / 'mlflow.db'}")
    run = client.create_run(client.create_experiment("steps")).info.run_id
    began = time.perf_counter()
    for step in range(100):
        client.log_metric(run, "loss", 0.5, step=step)
    theirs = (time.perf_counter() - began) / 100
    print(
        f"metric log: {1e6 * mine:.1f} us a step, on the disk at least twice a second; "
        f"mlflow.log_metric {1000 * theirs:.2f} ms a step, {theirs / mine:,.0f} times as much"
    )


def print_checkpoint(path: Path) -> None:
    """Compare how long training stands still for checkpoints of about 2, 20 and 190 MB.

    Ours are synced and read back before they count; Accelerate's ``save_state`` does neither, so it also writes less
    than it would have to. Dirty pages are written out before each measurement, that neither waits for the other's.
    """
    for width in (200, 640, 2000):
        _print_checkpoint(path / str(width), width)


def _print_checkpoint(path: Path, width: int) -> None:
    import torch
    from accelerate import Accelerator

    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(4)))
    optimizer = torch.optim.Adam(model.parameters())
    model, optimizer = accelerator.prepare(model, optimizer)
    model(torch.randn(2, width)).sum().backward()
    optimizer.step()
    session = _session(path / "job")
    ours, plain, whole = [], [], []
    for step in range(1, REPEATS + 2):
        os.sync()
        began = time.perf_counter()
        session.checkpointer.save({"model": model, "optimizer": optimizer}, step=step, epoch=0, cursor={})
        ours.append(time.perf_counter() - began)
        session.checkpointer.wait()
        whole.append(time.perf_counter() - began)
        os.sync()
        plain.append(_timed(lambda step=step: accelerator.save_state(str(path / f"plain-{step}"))))  # type: ignore[misc]
    first = ours[0]  # it also makes the copy that the later ones write over
    mine, theirs, full = (statistics.median(values[1:]) for values in (ours, plain, whole))
    size = sum(file.stat().st_size for file in (path / "plain-1").iterdir()) / 1e6
    print(
        f"checkpoint of {size:.0f} MB: blocks {1000 * mine:.1f} ms (the first {1000 * first:.1f} ms), "
        f"synced and read back after {1000 * full:.0f} ms; "
        f"save_state, not synced, blocks {1000 * theirs:.1f} ms, ratio {mine / theirs:.2f}"
    )
