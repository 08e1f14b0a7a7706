"""Workers, launcher, supervisor, kernel and the whole machine are killed at random moments; the run ends as if not.

``MLCYCLE_KILL_ROUNDS=200 pytest tests/process/training/test_random_kills.py -m faults`` runs 200 jobs instead of 20,
``MLCYCLE_KILL_SEED=N`` the one of a printed seed.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import submitting
from conftest import folder_of
from recovering import assert_equal, final_state, launch, make_job, metric_log, output_of

from mlcycle_nb.supervisor.processes import MARKER
from mlcycle_nb.supervisor.start import find_supervisor
from mlcycle_nb.training.job_folder import JobFolder
from mlcycle_nb.training.launch import process_name
from mlcycle_nb.training.records import TrainingJob
from mlcycle_nb.workspace import Workspace

pytestmark = pytest.mark.timeout(3600 * 6)

FIRST_SEED = 1
VICTIMS = ("worker", "launcher", "supervisor", "machine", "kernel")
# A third of the kills come some seconds after the one before, whatever happens then; the others after some steps more.
SPREAD_SECONDS = 6.0
SPREAD_STEPS = 36
JITTER_SECONDS = 0.3
CASES: tuple[dict[str, Any], ...] = (
    {"processes": 1, "params": {"schedule": "step"}},
    {"processes": 1, "params": {"schedule": "plateau", "early": 2}, "mixed_precision": "bf16"},
    {"processes": 2, "params": {"schedule": "epoch"}, "gradient_accumulation": 2},
    {"processes": 2, "params": {"schedule": "plateau", "best": "val_accuracy"}, "mixed_precision": "bf16"},
)
COMMON: dict[str, Any] = {"epochs": 4, "seed": 3}
PAUSE_SECONDS = 0.04


@dataclass
class Round:
    """One job and what is done to it, all drawn from a seed."""

    seed: int
    case: int = field(init=False)
    kills: list[tuple[int, float, str]] = field(init=False)  # steps, then seconds after the one before, and whom

    def __post_init__(self) -> None:
        draw = random.Random(self.seed)
        self.case = draw.randrange(len(CASES))
        self.kills = []
        for _ in range(draw.randint(1, 3)):
            steps = 0 if draw.random() < 1 / 3 else draw.randrange(1, SPREAD_STEPS)
            seconds = draw.uniform(0, JITTER_SECONDS if steps else SPREAD_SECONDS)
            self.kills.append((steps, seconds, draw.choice(VICTIMS)))

    def options(self, folder: Path) -> dict[str, Any]:
        """Return what is submitted."""
        case = CASES[self.case]
        params = {"seen": str(folder), "pause": PAUSE_SECONDS, **case["params"]}
        return {**COMMON, **case, "params": params}


class References:
    """Unbroken runs, one for each case."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: dict[int, JobFolder] = {}

    def of(self, case: int) -> JobFolder:
        """Return the unbroken run of a case."""
        if case not in self._found:
            options = {**COMMON, **CASES[case]}
            processes = options.pop("processes")
            folder = make_job(self._folder / f"case-{case}", processes, **options)
            assert launch(folder, 1) == 0, output_of(folder)
            self._found[case] = folder
        return self._found[case]


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> References:
    """Unbroken runs."""
    return References(tmp_path_factory.mktemp("references"))


class Machine:
    """The processes of one job, and the means to kill them."""

    def __init__(self, workspace: Workspace, request: dict[str, Any]) -> None:
        self._workspace = workspace
        argv = [sys.executable, submitting.__file__, json.dumps(request), str(workspace.home)]
        self.kernel = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self.kernel.stdout is not None
        self.job = self.kernel.stdout.readline().strip()
        assert self.job, "the job was not submitted"
        self.struck: list[str] = []

    def kill(self, victim: str) -> None:
        """Kill -9 whom the draw names; who is not there cannot be killed."""
        if victim == "machine":  # whoever could start something again goes first
            for part in ("kernel", "supervisor", "rest"):
                self._kill_all(part)
            self._workspace.context.ensure_supervisor()
            self.struck.append(victim)
        elif self._kill_all(victim):
            self.struck.append(victim)

    def record(self) -> TrainingJob:
        """Return the job."""
        return self._workspace.training.job(self.job)

    def over(self) -> bool:
        """Whether the job has ended, or nobody is left who could bring it to its end."""
        return not self.record().active or find_supervisor(self._workspace.home) is None

    def end(self) -> TrainingJob:
        """Wait for the end of the job from here, as a notebook that attaches would."""
        return self._workspace.training.attach(self.job).wait(300)

    def close(self) -> None:
        """End the kernel."""
        self.kernel.kill()
        self.kernel.wait(30)
        assert self.kernel.stdout is not None
        self.kernel.stdout.close()

    def _kill_all(self, victim: str) -> bool:
        found = [process for process in self._members(victim) if process.is_running()]
        for process in found:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        return bool(found)

    def _members(self, victim: str) -> list[psutil.Process]:
        if victim == "kernel":
            return [psutil.Process(self.kernel.pid)] if self.kernel.poll() is None else []
        if victim == "supervisor":
            supervisor = find_supervisor(self._workspace.home)
            return [psutil.Process(supervisor.pid)] if supervisor is not None else []
        if victim == "rest":  # also what was started in this instant, and nobody has noted yet
            return [process for process in psutil.process_iter() if marked(process, self._workspace)]
        identity = self._workspace.context.processes.get(process_name(self.job, self.record().attempt))
        if identity is None:
            return []
        try:
            launcher = psutil.Process(identity.pid)
            if victim == "launcher":
                return [launcher]
            return [p for p in launcher.children(recursive=True) if "mlcycle_nb.training.worker" in p.cmdline()][-1:]
        except psutil.NoSuchProcess:
            return []


def marked(process: psutil.Process, workspace: Workspace) -> bool:
    """Whether a process belongs to the workspace."""
    try:
        return process.environ().get(MARKER, "").startswith(f"{workspace.context.workspace_id}/")
    except psutil.Error:
        return False


def play(workspace: Workspace, references: References, tmp_path: Path, seed: int) -> str:
    """Run one job, kill as its seed says, compare with the unbroken run; return one line about it."""
    game = Round(seed)
    reference = references.of(game.case)
    seen = tmp_path / f"seen-{seed}"
    seen.mkdir()
    machine = Machine(workspace, {**game.options(seen), "checkpoint_every": "3", "max_restarts": 10})
    try:
        log = folder_of(workspace, machine.job)
        for steps, seconds, victim in game.kills:
            wanted = len(metric_log(log)) + steps
            wait_until(lambda wanted=wanted: len(metric_log(log)) >= wanted or machine.over())  # type: ignore[misc]
            time.sleep(seconds)  # the moment is what is drawn
            machine.kill(victim)
        record = machine.end()
    finally:
        machine.close()
    folder = folder_of(workspace, machine.job)
    line = f"seed {seed}: case {game.case}, killed {' '.join(machine.struck) or 'nobody'}, attempts {record.attempt}"
    assert record.phase == "finished", f"{line}: {record} {output_of(folder)}"
    try:
        assert_equal(folder, reference)
        assert_logged(workspace, record, folder)
    except AssertionError as failure:
        raise AssertionError(line) from failure
    return line


def assert_logged(workspace: Workspace, record: TrainingJob, folder: JobFolder) -> None:
    """The run in MLflow has each step's loss once, with the value that the log has."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(workspace.development.tracking.uri)
    points = [(point.step, point.value) for point in client.get_metric_history(str(record.run_id), "loss")]
    meant = {key[2]: values[0][0] for key, values in metric_log(folder).items() if key[:2] == ("loss", 0)}
    assert sorted(points) == sorted(meant.items())


def test_a_few_kills(workspace: Workspace, references: References, tmp_path: Path) -> None:
    """The short form: the kernel is killed, then a worker, then everything at once."""
    reference = references.of(0)
    game = Round(1)
    game.case = 0
    seen = tmp_path / "seen"
    seen.mkdir()
    machine = Machine(workspace, {**game.options(seen), "checkpoint_every": "3", "max_restarts": 10})
    folder = folder_of(workspace, machine.job)
    try:
        machine.kill("kernel")
        for victim in ("worker", "machine"):
            before = len(metric_log(folder))
            wait_until(lambda before=before: len(metric_log(folder)) > before + 5)  # type: ignore[misc]
            machine.kill(victim)
        record = machine.end()
    finally:
        machine.close()

    assert machine.struck == ["kernel", "worker", "machine"]
    assert record.phase == "finished", output_of(folder)
    assert record.attempt == 3
    assert_equal(folder, reference)
    assert_logged(workspace, record, folder)
    assert final_state(folder)[1]["cursor"]["epoch"] == COMMON["epochs"]


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once `condition` holds."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.faults
def test_random_kills(
    workspace: Workspace, references: References, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """20 jobs, or as many as asked for, killed up to three times each: all end with the unbroken run's bits."""
    chosen = os.environ.get("MLCYCLE_KILL_SEED")
    rounds = int(os.environ.get("MLCYCLE_KILL_ROUNDS", "20"))
    seeds = [int(chosen)] if chosen else range(FIRST_SEED, FIRST_SEED + rounds)
    lost = []
    for seed in seeds:
        try:
            print(play(workspace, references, tmp_path, seed), flush=True)
        except AssertionError as failure:
            lost.append(f"{failure}: {failure.__cause__ or ''}"[:2000])
            print("LOST", lost[-1], flush=True)
    record_property("measured", f"random kills: {len(seeds) - len(lost)} of {len(seeds)} jobs ended bit-equal")
    assert not lost, "\n".join(lost)
