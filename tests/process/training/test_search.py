"""Searches with real processes: killed in the middle, failing, stopped and resumed, and from a notebook."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlcycle_nb.errors import InvalidInput, JobFailed
from mlcycle_nb.supervisor.start import find_supervisor
from mlcycle_nb.training.checkpoints import CheckpointStore
from mlcycle_nb.training.events import EventReader
from mlcycle_nb.training.job_folder import JobFolder, read_document
from mlcycle_nb.training.magic import TrainingMagics
from mlcycle_nb.training.search.handle import SearchHandle
from mlcycle_nb.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent))

from conftest import folder_of, names, run_alone, until

pytestmark = pytest.mark.timeout(280)

CELL = """
import os, time

model = torch.nn.Sequential(torch.nn.Linear(20, params.width), torch.nn.ReLU(), torch.nn.Linear(params.width, 3))
data = torch.utils.data.TensorDataset(rows, labels)
seen = 0

def collate(rows):
    global seen
    seen += 1
    while seen > 12 and not os.path.exists(params.get("gate", "/")):
        time.sleep(0.02)
    return torch.utils.data.default_collate(rows)

fit(model, torch.optim.SGD(model.parameters(), lr=params.lr),
    torch.utils.data.DataLoader(data, batch_size=50, shuffle=True, collate_fn=collate),
    torch.utils.data.DataLoader(data, batch_size=200), loss=torch.nn.CrossEntropyLoss())
"""
SPACE = {"lr": "log:1e-3..1", "width": [8, 16]}
LOOP = """
value = 0.0
for step in range(3):
    value += 1.0 / params.width
    if params.width == 8 and step == 1:
        raise ValueError("eight is not enough")
    log(score=value)
"""


def search(workspace: Workspace, model: str, cell: str = CELL, **options: Any) -> SearchHandle:
    asked = {"space": SPACE, "trials": 3, "concurrent": 1, "metric": "val_accuracy", "epochs": 2, "seed": 4}
    return workspace.training.search(model, cell, names(), **{**asked, **options})


def results(handle: SearchHandle) -> list[tuple[Any, ...]]:
    return [(trial.number, trial.phase, trial.params, trial.value, trial.reports) for trial in handle.trials()]


def test_a_search_outlives_its_supervisor_and_a_worker(workspace: Workspace, tmp_path: Path) -> None:
    """Both are killed in the middle of a trial; the results are those of an unbroken search, and counted once."""
    gate = tmp_path / "gate"
    killed = search(workspace, "killed", params={"gate": str(gate)}, register=True)
    folder = folder_of(workspace, f"{killed.id}-t0")
    until(lambda: any(event["kind"] == "epoch" for event in EventReader(folder.events).read()))
    supervisor = find_supervisor(workspace.home)
    assert supervisor is not None
    worker = next(event["pid"] for event in EventReader(folder.events).read() if event["kind"] == "started")
    os.kill(supervisor.pid, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(supervisor.pid) or psutil.Process(supervisor.pid).status() == "zombie")
    gate.touch()
    record = killed.result(200)

    plain = search(workspace, "plain", params={"gate": str(gate)})
    plain.result(200)

    assert (record.phase, record.ended, record.asked) == ("finished", 3, 3)
    assert results(killed) == results(plain)
    assert len(workspace.training.job(f"{killed.id}-t0").restarts) == 1
    runs = {run.name: run for run in workspace.development.runs("killed")}
    assert set(runs) == {killed.id, *(f"{killed.id}-t{number}" for number in range(3))}
    parent = runs.pop(killed.id)
    assert {run.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.id}
    assert {run.status for run in [parent, *runs.values()]} == {"finished"}
    version = workspace.development.get_version("killed@candidate")
    assert record.registered == version.reference == "killed/1"
    assert version.run_id == runs[record.best_job].id
    assert workspace.training.jobs("killed") == []


def test_a_failing_trial_is_a_result_with_its_line(workspace: Workspace) -> None:
    """It does not end the search, and the loop needs neither fit() nor epochs()."""
    handle = search(workspace, "failing", LOOP, space={"width": [4, 8]}, metric="score", sampler="grid", trials=2)
    record = handle.result(100)

    failed, complete = sorted(handle.trials(), key=lambda trial: trial.phase, reverse=True)
    assert (record.phase, record.ended, record.best) == ("finished", 2, complete.number)
    assert complete.value == pytest.approx(0.75)
    assert failed.failure is not None
    assert (failed.failure.line, failed.failure.source) == (6, 'raise ValueError("eight is not enough")')
    assert "eight is not enough" in repr(handle)


def test_a_metric_that_is_never_reported_ends_the_search(workspace: Workspace) -> None:
    """After one trial, with the names of those that were reported."""
    handle = search(workspace, "unheard", LOOP, space={"width": [3, 4]}, metric="val_acuracy", trials=2)

    with pytest.raises(JobFailed, match=r"without reporting 'val_acuracy'; reported were score"):
        handle.result(100)
    assert handle.record.ended == 1


def test_stopped_and_resumed(workspace: Workspace, tmp_path: Path) -> None:
    """The trial that was stopped goes on from its checkpoint; the same cell takes the search up again."""
    gate = tmp_path / "gate"
    options: dict[str, Any] = {"params": {"gate": str(gate)}, "trials": 1, "epochs": 4}
    handle = search(workspace, "halted", **options)
    folder = folder_of(workspace, f"{handle.id}-t0")
    until(lambda: any(event["kind"] == "epoch" for event in EventReader(folder.events).read()))
    handle.stop("enough for today")
    until(folder.told_of(1).exists)
    gate.touch()  # the stop is heeded at the end of a step, and this one stands still
    assert handle.wait(100).phase == "stopped"
    assert [trial.phase for trial in handle.trials()] == ["waiting"]

    again = search(workspace, "halted", **options)

    assert (again.id, again.attached) == (handle.id, True)
    assert again.result(100).ended == 1
    assert any(event["kind"] == "resumed" for event in EventReader(folder.events).read())
    run = next(run for run in workspace.development.runs("halted") if run.name == f"{handle.id}-t0")
    assert run.status == "finished"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_worker_ends_at_the_end_of_the_epoch_in_which_it_is_pruned(tmp_path: Path, processes: int) -> None:
    """All ranks together, with that epoch's checkpoint and exit code 0; an ordinary job does not look."""
    ended = {}
    for trial in (True, False):
        folder = JobFolder(tmp_path / f"job-{trial}")
        folder.make()
        folder.prune_request.touch()
        params = {"lr": 0.1, "width": 4, "gate": "/"}
        run_alone(folder.path, CELL, names(), processes, params=params, epochs=2, trial=trial)
        outcome = read_document(folder.outcome_of(1))
        assert outcome is not None
        ended[trial] = (outcome["outcome"], outcome["step"])
    steps = 400 // 50 // processes
    assert ended == {True: ("pruned", steps), False: ("finished", 2 * steps)}
    newest = CheckpointStore(tmp_path / "job-True" / "checkpoints").records()[0]
    assert newest.step == steps


@pytest.fixture
def shell(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A shell whose notebook has defined torch, rows, labels and a space."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    from IPython.core.interactiveshell import InteractiveShell

    from mlcycle_nb.notebook.magics import register

    InteractiveShell.clear_instance()
    running = InteractiveShell.instance()
    register(running, [TrainingMagics(running, lambda: workspace)])
    running.push({**names(), "widths": {"width": [2, 4, 5]}, "number": 7})
    yield running
    running.history_manager.end_session()
    InteractiveShell.clear_instance()


def test_from_a_notebook(shell: Any, workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    """A cell searches and waits headless; again it attaches; with more trials it goes on."""
    line = "noted --search widths --metric score --sampler grid --concurrent 1 --trials {} --stall 3m --into found"
    first = shell.run_cell_magic("train", line.format(1), LOOP)
    assert first is shell.user_ns["found"]
    assert "1 of 1 trials: 1 complete" in repr(first)
    assert workspace.training.job(f"{first.id}-t0").stall_seconds == 180

    shell.run_cell_magic("train", line.format(1), LOOP)
    assert f"search {first.id} has its 1 trials" in capsys.readouterr().out
    assert shell.run_cell_magic("train", line.format(2), LOOP).record.ended == 2
    assert first.id in repr(shell.run_line_magic("train", "search"))
    assert "2 of 2 trials" in repr(shell.run_line_magic("train", "search show noted"))
    assert shell.run_line_magic("train", "search resume noted --trials 3").record.ended == 3


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("bad --search lr", "the notebook has no search space of this name"),
        ("bad --search number", "number is no dict but a int"),
        ("bad --search width=9..3.5", "ends before it begins"),
        ("bad --search width=2,4 --sampler tpee", "did you mean 'tpe'?"),
        ("bad --search width=2,4 --prune medain", "did you mean 'median'?"),
        ("bad --search width=2,4 --trials 0", "trials must be a whole number from 1"),
        ("bad --search width=2,4 wdith=1,2", "never reads params.wdith"),
        ("bad --search width=2,4 --direction up", "unknown direction"),
        ("bad --search width=2,4 --concurrent 999", "concurrent must be a whole number"),
        ("bad --search width=2,4 --param width=3", "given a value and searched over"),
        ("bad --trials 3", "--trials belongs to a search"),
    ],
)
def test_a_wrong_line_is_refused_and_nothing_is_made(shell: Any, workspace: Workspace, line: str, told: str) -> None:
    """In one line, before anything is stored."""
    with pytest.raises((InvalidInput, LookupError)) as caught:
        shell.run_cell_magic("train", line, LOOP)

    assert told in str(caught.value)
    assert workspace.training.searches.all("bad") == []
