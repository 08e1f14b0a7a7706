"""Running jobs again: bit for bit the same, or said not to be, and why not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlcycle_nb.cli import main
from mlcycle_nb.errors import InvalidInput, NotFound, Refused
from mlcycle_nb.training.job_folder import JobFolder
from mlcycle_nb.training.reproduce import compare_weights
from mlcycle_nb.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent))

from conftest import CELL, folder_of, names

pytestmark = pytest.mark.timeout(400)


def test_a_job_is_reproduced_and_a_changed_input_is_named(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dropout, shuffling, an optimizer with state, a scheduler, two processes: equal to the bit."""
    job = workspace.training.train_model("again", CELL, names(), params={"lr": 0.01}, processes=2).result()
    handle = workspace.training.reproduce(str(job.run_id)[:8])
    report = handle.wait()

    assert report.verdict == "reproduced", report
    assert {metric.name for metric in report.metrics if metric.verdict == "equal"} >= {"loss", "val_loss"}
    assert report.weights.startswith("equal bit for bit")
    assert report.packages == report.inputs == ()
    again = workspace.training.job(report.job)
    assert (again.reproduces, again.seed, again.processes) == (job.run_id, job.seed, 2)
    assert workspace.development.run(str(report.run)).tags["mlcycle.reproduces"] == job.run_id

    # another optimizer step would be another weight
    folder = folder_of(workspace, again.id)
    assert compare_weights(folder_of(workspace, job.id), folder) == (True, report.weights)
    assert compare_weights(folder_of(workspace, job.id), JobFolder(folder.path / "none"))[0] is None

    with (folder_of(workspace, job.id).payload / "buffers.bin").open("r+b") as buffers:
        byte = buffers.read(1)
        buffers.seek(0)
        buffers.write(bytes([byte[0] ^ 1]))
    before = len(workspace.training.jobs())
    assert main(["--home", str(workspace.home), "reproduce", job.id]) == 1
    shown = capsys.readouterr().out
    assert "cannot (its inputs have changed since it ran)" in shown
    assert "payload/buffers.bin" in shown
    assert len(workspace.training.jobs()) == before


def test_chance_differs_and_packages_are_compared(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric from outside the seed, and a lock that is no longer what is installed."""
    cell = "import os\nlog(chance=int.from_bytes(os.urandom(6)), fixed=0.5)\n"
    job = workspace.training.train_model("chance", cell, {}).result()
    report = workspace.training.reproduce(job.id).wait()
    assert (report.verdict, report.why) == ("differs", "1 of 2 metrics: chance")
    assert next(metric for metric in report.metrics if metric.name == "chance").largest > 0

    from mlcycle_nb.development.reproduce import surroundings

    now = tuple(text for text in surroundings.installed_packages() if not text.startswith("torch=="))
    monkeypatch.setattr(surroundings, "installed_packages", lambda: (*now, "torch==0.1"))
    before = len(workspace.training.jobs())
    strict = workspace.training.reproduce(job.id, strict=True).wait()
    assert strict.verdict == "cannot"
    assert any(text.startswith("torch ") and text.endswith("-> 0.1") for text in strict.packages)
    assert len(workspace.training.jobs()) == before


def test_refused(workspace: Workspace) -> None:
    training = workspace.training
    with pytest.raises(NotFound, match="no run of this id"):
        training.reproduce("nothing")
    with pytest.raises(InvalidInput, match="name a run"):
        training.reproduce("")
    failed = training.train_model("broken", "1 / 0", {})
    failed.wait()
    with pytest.raises(Refused, match="is failed, and only what finished is run again"):
        training.reproduce(failed.id)
