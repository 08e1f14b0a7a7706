"""The terminal reaches what a busy or dead kernel cannot: exit codes for scripts, one line for what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlcycle_nb.cli import main

from .conftest import BETTER, ENVIRONMENT, GOOD, MODEL, PERMUTED, Served, until

pytestmark = pytest.mark.timeout(240)


class Terminal:
    """Runs ``mlcycle`` in the workspace of these tests."""

    def __init__(self, home: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.home = str(home)
        self._capture = capture

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Return exit code, output and errors."""
        self._capture.readouterr()
        code = main(["--home", self.home, *arguments])
        shown = self._capture.readouterr()
        return code, shown.out.strip(), shown.err.strip()


@pytest.fixture
def terminal(served: Served, capsys: pytest.CaptureFixture[str]) -> Terminal:
    served.bring_stable(GOOD)
    return Terminal(served.workspace.home, capsys)


def held_canary(served: Served, version: int) -> str:
    """Begin a canary that stays at its first step; return the rollout."""
    handle = served.workspace.deployment.deploy_model(
        f"{MODEL}/{version}", ENVIRONMENT, "canary", steps="1,100", interval="10m", warm="1s"
    )
    until(lambda: handle.record.phase == "progressing")
    return handle.id


def test_a_rollout_is_held_and_taken_back(served: Served, terminal: Terminal) -> None:
    """Pause, resume and abort, by the service's name, by the model's, and by nothing at all."""
    rollout = held_canary(served, BETTER)

    assert terminal.run("pause", f"{ENVIRONMENT}/{MODEL}") == (
        0,
        f"rollout {rollout} of digits/2: paused, step 1/2",
        "",
    )
    code, out, _ = terminal.run("--json", "resume", MODEL, "--env", ENVIRONMENT)
    assert (code, json.loads(out)["phase"]) == (0, "progressing")
    code, out, _ = terminal.run("--json", "abort", "--reason", "a look at the logs", "--wait")
    assert (code, json.loads(out)) == (0, {"rollout": rollout, "phase": "aborted", "reason": "a look at the logs"})
    assert served.stable == GOOD


def test_promote_and_roll_back(served: Served, terminal: Terminal) -> None:
    """A version is promoted, and the one before it is brought back."""
    rollout = held_canary(served, BETTER)

    code, out, _ = terminal.run("promote", rollout, "--wait")
    assert (code, out) == (0, f"rollout {rollout} of digits/2: completed")
    assert served.stable == BETTER
    code, out, _ = terminal.run("rollback", MODEL, "--env", ENVIRONMENT, "--reason", "a test")
    assert code == 0
    assert "completed" in out
    assert served.stable == GOOD


def test_another_end_is_told_by_the_exit_code(served: Served, terminal: Terminal) -> None:
    """Whoever waits for a rollout that somebody else aborts gets 1; promoting it then is too late."""
    rollout = held_canary(served, BETTER)
    terminal.run("pause", rollout)
    codes: list[int] = []
    waiting = threading.Thread(
        target=lambda: codes.append(main(["--home", terminal.home, "resume", rollout, "--wait"]))
    )
    waiting.start()
    handle = served.workspace.deployment.rollout(rollout)
    until(lambda: handle.record.phase == "progressing")
    served.workspace.deployment.abort(rollout, reason="somebody else")

    code, _, err = terminal.run("promote", rollout)
    waiting.join()

    assert codes == [1]
    assert code == 2
    assert "too late to promote" in err or "has ended" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("promote",), "no such rollout is running"),
        (("abort", "nothing"), "no such rollout is running (got 'nothing')"),
        (("pause", "--env", "mars"), "no such rollout is running"),
        (("rollback", MODEL, "--env", "staging"), "digits is not deployed in staging"),
        (("rollback", MODEL, "--env", ENVIRONMENT, "--to", "99"), "a version that was stable here"),
        (("rollback", "../x"), "model name has FULL STOP U+002E"),
        (("train", "logs"), "a job is missing"),
        (("train", "stop", "nothing"), "there is no such training job (got 'nothing')"),
        (("validate", "digits/1", "--gates", "nowhere", "--data", "nowhere.csv"), "No such file"),
        (("promot",), "did you mean 'promote'"),
        (("maintenance", "--at", "02:00"), "--for DURATION is missing"),
        (("maintenance", "--end", "maintenance-0"), "maintenance-0"),
        (("replay", MODEL, "yesterday", "--env", ENVIRONMENT), "yesterday"),
        (("train", "stpo", "x"), "did you mean 'stop'"),
    ],
)
def test_refused(terminal: Terminal, arguments: tuple[str, ...], words: str) -> None:
    """2, nothing on standard output, and one line that says why."""
    code, out, err = terminal.run(*arguments)

    assert (code, out) == (2, "")
    assert words in err
    assert err.startswith("MLC-")
    assert "\n" not in err


def test_training_jobs(terminal: Terminal) -> None:
    """An empty list is no error."""
    code, out, _ = terminal.run("--json", "train", "list", "nothing-of-this-name")

    assert (code, json.loads(out)) == (0, [])


def test_maintenance_is_planned_and_ended(served: Served, terminal: Terminal) -> None:
    """As by a script that works on the machine now and then."""
    monitor = served.workspace.monitoring.start_monitoring(
        MODEL, environment=ENVIRONMENT, window=200, detectors=("ks", "chi_squared"), channels=("log",)
    )
    planned = ("maintenance", MODEL, "--env", ENVIRONMENT, "--at", "02:00", "--every", "sun", "--for", "2h")
    code, out, _ = terminal.run("--json", *planned, "--reason", "backups")
    [made] = json.loads(out)
    assert (code, made["model"], made["days"], made["seconds"]) == (0, MODEL, ["sun"], 7200.0)

    code, out, _ = terminal.run("maintenance")
    assert code == 0
    assert made["id"] in out
    assert "next " in out
    assert "ended" in terminal.run("maintenance", "--end", made["id"])[1]
    assert terminal.run("maintenance") == (0, "no maintenance is planned", "")
    monitor.stop()


def test_validate(served: Served, terminal: Terminal, tmp_path: Path) -> None:
    """0 for a version that passes its gates, 1 for one that does not."""
    import pandas
    from sklearn.datasets import load_digits

    frame = pandas.DataFrame(served.rows[:200], columns=[f"f{position}" for position in range(64)])
    frame.assign(label=load_digits().target[1400:1600]).to_csv(tmp_path / "held-out.csv", index=False)
    (tmp_path / "gates.yaml").write_text("gates: [{check: accuracy, min: 0.6, min_samples: 50}]\n")
    data = ("--gates", str(tmp_path / "gates.yaml"), "--data", str(tmp_path / "held-out.csv"))

    assert terminal.run("validate", f"{MODEL}/{GOOD}", *data)[0] == 0
    code, out, _ = terminal.run("validate", f"{MODEL}/{PERMUTED}", *data)
    assert code == 1
    assert "accuracy" in out


def test_the_installed_command(served: Served, tmp_path: Path) -> None:
    """The command itself, in another working directory, in a process of its own."""
    command = [str(Path(sys.executable).parent / "mlcycle"), "--home", str(served.workspace.home)]
    ran = subprocess.run([*command, "audit", "verify"], capture_output=True, text=True, cwd=tmp_path, timeout=120)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "intact" in ran.stdout
    assert list(tmp_path.iterdir()) == []
