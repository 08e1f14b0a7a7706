"""The three faces of a training job, from its record and events alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.development.service import ModelDevelopmentManager
from mlcycle_nb.errors import InvalidInput, NotFound, Refused
from mlcycle_nb.notebook.charts import Line, line_chart
from mlcycle_nb.notebook.live_view import split_chart
from mlcycle_nb.training.events import EventWriter
from mlcycle_nb.training.job_folder import JobFolder
from mlcycle_nb.training.listing import JobList
from mlcycle_nb.training.panel import TrainingPanel
from mlcycle_nb.training.records import Failure, Restart, TrainingJob
from mlcycle_nb.training.service import TrainingManager
from tests.builders import training_job


@pytest.fixture
def training(context: Context) -> TrainingManager:
    """A service without a supervisor."""
    return TrainingManager(context, ModelDevelopmentManager(context))


@pytest.fixture
def job(context: Context) -> TrainingJob:
    """A running job of two processes with a recovery behind it."""
    now = context.clock.now()
    folder = JobFolder(context.folder("training", "jobs") / "digits-1")
    folder.make()
    for rank in (1, 0):
        writer = EventWriter(folder.events_of(rank), rank=rank, attempt=2)
        if rank == 0:
            writer.write("started", world=2, device="cpu")
            writer.write("fit", epochs=2, total_steps=40, epoch=0, step=0, best="val_loss")
        for step in range(1, 21):
            writer.step(0, step, 1.0 / step + rank, 8)
        writer.flush()
        if rank == 0:
            values = {"train_loss": 0.4, "val_loss": 0.5, "val_accuracy": 0.9, "lr": 0.01}
            writer.write("epoch", epoch=0, step=20, values=values)
            saved: dict[str, Any] = {"name": "step-20", "size_bytes": 9, "metric": 0.5, "best": True}
            writer.write("checkpoint", step=20, epoch=1, seconds=0.1, blocked_seconds=0.01, **saved)
            writer.write("checkpoint_rejected", name="step-30", reason="state.json has changed")
            writer.write("resumed", step=20, epoch=1, name="step-20")
        writer.close()
    folder.output_of(0).write_text("".join(f"line {n}\n" for n in range(500)))
    record = training_job(
        created_at=now,
        processes=2,
        epochs=2,
        attempt=2,
        restarts=(Restart(attempt=1, at=now, why="a worker or its launcher was killed", from_step=20),),
    )
    with context.store.transaction(actor="tester") as transaction:
        return transaction.insert(record, event="training.submitted")


def test_text(training: TrainingManager, job: TrainingJob) -> None:
    """Lines for a terminal: phase, bar, metrics, world, checkpoints, recoveries, notes."""
    text = repr(TrainingPanel(training, job.id))

    assert "training digits-1: running" in text
    assert "[############............] step 20 of 40, epoch 1 of 2" in text
    assert "val_accuracy 0.9" in text
    assert "2 processes on cpu" in text
    assert "newest at step 20, best at step 20 (val_loss 0.5)" in text
    assert "recoveries: 1 (from step 20)" in text
    assert "step-30 was passed over: state.json has changed" in text


def test_html_is_inert_and_labelled(training: TrainingManager, job: TrainingJob, context: Context) -> None:
    """A failure with markup in it is shown as text; the bar has its value for screen readers."""
    failed = replace(job, phase="failed", failure=Failure(kind="user", message="<script>alert(1)</script>", rank=1))
    with context.store.transaction(actor="tester") as transaction:
        transaction.update(failed, event="training.failed")
    html = TrainingPanel(training, job.id).to_html()

    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert 'aria-valuenow="50"' in html
    assert html.count("<img") == 2


def test_charts(training: TrainingManager, job: TrainingJob) -> None:
    """One chart a metric, training and validation together, the best marked, the place of the recovery too."""
    panel = TrainingPanel(training, job.id)
    loss, accuracy = (split_chart(chart) for chart in panel.charts(panel.snapshot()))
    breaks, lines, best = (table["rows"] for table in loss[1].values())

    assert breaks == [[20]]
    assert lines[0] == [1, 1.5, "training"]
    assert [row[2] for row in lines if row[0] == 20][1:] == ["training, epoch mean", "validation"]
    assert best == [[20, 0.5, "validation", "best 0.5"]]
    assert accuracy[0]["title"] == "accuracy"
    assert [row[1:] for row in accuracy[1]["rows1"]["rows"]] == [[0.9, "validation"]]


def test_a_single_line_has_its_name_and_the_axes_theirs() -> None:
    """A chart with one line says what it shows; nothing is called "value"."""
    drawn = line_chart({"f1": Line([(1, 0.5)])}, title="f1", y_title="f1", x_title="optimizer step").to_dict()
    (line,) = [layer for layer in drawn["layer"] if layer.get("mark", {}).get("type") == "line"]

    assert line["encoding"]["color"]["scale"]["domain"] == ["f1"]
    assert line["encoding"]["color"]["legend"]["orient"] == "top"
    assert line["encoding"]["y"]["title"] == "f1"
    assert line["encoding"]["x"]["title"] == "optimizer step"


def test_charts_leave_out_what_is_not_finite() -> None:
    """NaN has no place on an axis, and no spelling in JSON."""
    points = [(1, 0.5), (2, float("nan")), (3, float("inf"))]
    _, tables = split_chart(line_chart({"loss": Line(points)}, title="loss", y_title="loss"))

    assert tables["rows1"]["rows"] == [[1, 0.5, "loss"]]


def test_actions(training: TrainingManager, job: TrainingJob, context: Context) -> None:
    """A running job can be stopped; one that was stopped can be taken up again."""
    panel = TrainingPanel(training, job.id)
    assert [action.label for action in panel.actions(panel.snapshot())] == ["Stop"]
    assert not panel.finished(panel.snapshot())
    with context.store.transaction(actor="tester") as transaction:
        transaction.update(replace(job, phase="stopped"), event="training.stopped")

    assert [action.label for action in panel.actions(panel.snapshot())] == ["Resume"]
    assert panel.finished(panel.snapshot())
    with pytest.raises(Refused, match="has stopped already"):
        training.stop(job.id)


def test_logs_are_bounded(training: TrainingManager, job: TrainingJob) -> None:
    """At most the lines asked for, the newest; a rank that does not exist is named."""
    assert training.logs("digits-1", rank=0).splitlines() == [f"line {n}" for n in range(300, 500)]
    assert training.logs("digits").startswith("-- rank 0 --")
    with pytest.raises(InvalidInput, match="ranks 0 to 1"):
        training.logs(job.id, rank=2)


def test_lookup(training: TrainingManager, job: TrainingJob) -> None:
    """By id, or by the model's name; a slip gets a suggestion."""
    assert training.job("digits") == training.job("digits-1") == job
    assert repr(JobList(training.jobs())).splitlines()[1].startswith("digits-1")
    assert "no training jobs yet" in repr(JobList())
    with pytest.raises(NotFound, match="did you mean 'digits-1'"):
        training.job("digit-1")


def test_importing_the_magic_is_light(tmp_path: Path) -> None:
    """Loading the extension must not load what training needs."""
    import subprocess
    import sys

    program = "import mlcycle_nb.training.magic, sys; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["torch", "numpy", "mlflow", "altair", "pandas", "accelerate", "cloudpickle", "sqlalchemy"]
    run = subprocess.run([sys.executable, "-c", program, *heavy], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "[]"
