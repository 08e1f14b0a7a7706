"""Dry runs, with real workers: what they measure, and that they leave nothing."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from mlcycle_nb.errors import InvalidInput, JobFailed
from mlcycle_nb.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent))

from conftest import CELL, names

pytestmark = pytest.mark.timeout(200)

OWN_LOOP = """
model = torch.nn.Linear(20, 3)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows, labels), batch_size=40, shuffle=True)
model, optimizer = accelerator.prepare(model, optimizer)
for epoch in epochs():
    for inputs, target in batches(loader):
        loss = torch.nn.functional.cross_entropy(model(inputs), target)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        log(loss=loss)
save_model(model, example=rows[:10])
"""
NEITHER = """
model = torch.nn.Linear(20, 3)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
model, optimizer = accelerator.prepare(model, optimizer)
for step in range(1_000_000):
    loss = torch.nn.functional.cross_entropy(model(rows), labels)
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    log(loss=loss)
"""


def files(workspace: Workspace) -> set[str]:
    """Everything in the workspace's folder apart from the databases' own files and the trail."""
    folders = ("training", "run/processes", "packages", "mlflow")
    return {str(p.relative_to(workspace.home)) for f in folders for p in (workspace.home / f).rglob("*") if p.is_file()}


def test_fit_in_two_processes(workspace: Workspace) -> None:
    """Every figure is there, the arithmetic of the whole run holds, and no job, version or file is left."""
    before = files(workspace)

    found = workspace.training.dry_run(
        "digits", CELL, names(), processes=2, epochs=4, params={"lr": 0.01}, gradient_accumulation=3, register=True
    )

    assert found.ready
    assert (found.world_size, found.device, found.backend) == (2, "cpu", "gloo")
    assert [(each.rank, each.samples) for each in found.ranks] == [(0, (16, 16)), (1, (16, 16))]
    assert all(each.memory_bytes > 50e6 for each in found.ranks)
    assert found.batches_per_epoch == 13  # 400 rows in batches of 16: 25 batches, in turn to two ranks
    assert found.validation_seconds is not None
    assert found.checkpoint_bytes is not None
    assert found.checkpoint_bytes > 3 * 4 * (20 * 32 + 32 * 3)  # the weights, and two moments of each
    assert found.checkpoint_seconds >= found.checkpoint_blocked_seconds > 0  # type: ignore[operator]
    slowest = max(each.seconds[1] for each in found.ranks)
    assert found.batches_per_second == pytest.approx(1 / slowest)
    assert found.samples_per_second == pytest.approx(32 / slowest)
    epoch = 13 * slowest + found.validation_seconds + found.checkpoint_blocked_seconds  # type: ignore[operator]
    assert found.eta_seconds == pytest.approx(4 * epoch)
    assert found.carried["rows"] > 400 * 20 * 4
    assert found.to_dict()["ranks"][1]["samples"] == [16, 16]
    text, html = repr(found), found._repr_html_()
    for piece in ("2 batches in each process", "2 processes on cpu, gloo", "4 epochs of 13 batches", "rows 3"):
        assert piece in text, text
    assert "<table" in html
    assert workspace.training.jobs("digits") == []
    assert files(workspace) == before
    assert not list((workspace.home / "training" / "dry-runs").iterdir())
    assert workspace.context.processes.names("dry-run") == []


@pytest.mark.parametrize(("cell", "counted"), [(OWN_LOOP, True), (NEITHER, False)], ids=["batches()", "neither"])
def test_loops_of_one_s_own(workspace: Workspace, cell: str, counted: bool) -> None:
    """They end after two steps; without `batches()` nobody can tell how long the whole would take."""
    found = workspace.training.dry_run("own", cell, names(), epochs=3)

    assert (found.counted, found.ended_by_itself, len(found.ranks[0].seconds)) == (counted, False, 2)
    assert found.checkpoint_bytes is not None
    assert found.batches_per_epoch == (10 if counted else None)
    assert (found.eta_seconds is not None) is counted
    assert ("batches/s" if counted else "steps/s") in repr(found)


def test_errors_of_the_cell(workspace: Workspace) -> None:
    """They are shown as of a real run: line, rank, traceback; and nothing is left."""
    cell = OWN_LOOP.replace("        optimizer.zero_grad()", "        optimizer.zero_gard()")
    with pytest.raises(JobFailed, match=r"dry run of own failed.*zero_gard.*line 11") as caught:
        workspace.training.dry_run("own", cell, names())

    assert "zero_gard" in str(caught.value)
    assert not list((workspace.home / "training" / "dry-runs").iterdir())


def test_names_that_cannot_be_carried(workspace: Workspace) -> None:
    """All of them are listed with reason and remedy, beside the sizes of the others; no worker is started."""
    given: dict[str, Any] = {
        "torch": torch,
        "rows": torch.ones(1000, 10),
        "lock": threading.Lock(),
        "log_file": sys.stderr,
    }
    found = workspace.training.dry_run("digits", "print(rows, lock)\nlog_file.write('x')", given)

    assert not found.ready
    assert found.ranks == ()
    assert sorted(found.cannot_carry) == ["lock", "log_file"]
    assert "make locks and threads inside the training cell" in found.cannot_carry["lock"]
    assert found.carried["rows"] > 40_000
    assert "not ready" in repr(found)
    assert "inside the training cell" in found._repr_html_()


@pytest.mark.parametrize(
    ("cell", "options", "message"),
    [
        ("fit(absent)", {}, "'absent'"),
        ("", {}, "empty"),
        ("1", {"proceses": 2}, "did you mean 'processes'"),
        ("1", {"processes": 0}, "processes must be a whole number"),
    ],
)
def test_refusals(workspace: Workspace, cell: str, options: dict[str, Any], message: str) -> None:
    """What a real run refuses, a dry run refuses in the same words."""
    with pytest.raises(InvalidInput, match=message):
        workspace.training.dry_run("digits", cell, {}, **options)
