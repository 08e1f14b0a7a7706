"""The command: exit codes for scripts, JSON for programs, one line for people."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import delete

from mlcycle_nb import __version__
from mlcycle_nb.cli import main
from mlcycle_nb.store import schema
from mlcycle_nb.store.audit import verify
from mlcycle_nb.store.keys import public_bytes, signing_key
from mlcycle_nb.workspace import Workspace

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def home(workspace: Workspace) -> str:
    """The folder of a workspace with two entries in its trail."""
    for number in range(2):
        with workspace.store.transaction(actor="tester") as transaction:
            transaction.note("counted", subject=f"counter:{number}")
    return str(workspace.home)


def cut(workspace: Workspace) -> None:
    with workspace.store._writing() as connection:
        connection.execute(delete(schema.audit).where(schema.audit.c.sequence == 2))


class TestStatus:
    """What is alive."""

    def test_nothing_is_alive(self, home: str, capsys: Captured) -> None:
        """That is no failure."""
        assert main(["--home", home, "status"]) == 0
        assert capsys.readouterr().out.splitlines()[1:] == [
            "supervisor: not running", "processes: 0", "nothing is active",
        ]  # fmt: skip

    def test_as_json(self, home: str, workspace: Workspace, capsys: Captured, tmp_path: Path) -> None:
        """For programs."""
        workspace.context.processes.ensure("sleeper", ["sleep", "600"], log=tmp_path / "log")

        assert main(["--home", home, "--json", "status"]) == 0
        assert json.loads(capsys.readouterr().out) == {
            "home": home, "supervisor_pid": None, "records": [], "processes": ["sleeper"],
        }  # fmt: skip


class TestDown:
    """All that the workspace started is stopped."""

    def test_twice(self, home: str, workspace: Workspace, capsys: Captured, tmp_path: Path) -> None:
        """The second call finds nothing, and that is no failure."""
        child = workspace.context.processes.ensure("sleeper", ["sleep", "600"], log=tmp_path / "log")

        assert main(["--home", home, "down"]) == 0
        assert not child.alive()
        assert main(["--home", home, "down"]) == 0
        assert main(["--home", home, "--json", "down"]) == 0
        assert capsys.readouterr().out.splitlines() == ["stopped 1: sleeper", "stopped 0: nothing ran", "[]"]


class TestAudit:
    """The trail, from a terminal."""

    def test_an_intact_trail(self, home: str, capsys: Captured) -> None:
        """Exit code 0."""
        assert main(["--home", home, "audit", "verify"]) == 0
        assert capsys.readouterr().out.startswith("audit trail intact: 2 entries")

    def test_a_broken_trail(self, home: str, workspace: Workspace, capsys: Captured) -> None:
        """Exit code 1, and the first bad entry."""
        cut(workspace)

        assert main(["--home", home, "audit", "verify"]) == 1
        assert capsys.readouterr().out.startswith("audit trail BROKEN at entry 2: the trail ends at entry 1")
        assert main(["--home", home, "--json", "audit", "verify"]) == 1
        assert json.loads(capsys.readouterr().out)["first_bad"] == 2

    def test_an_export(self, home: str, capsys: Captured, tmp_path: Path) -> None:
        """To a file; without one it is refused."""
        target = tmp_path / "trail.json"

        assert main(["--home", home, "audit", "export", str(target)]) == 0
        assert len(json.loads(target.read_text())["entries"]) == 2
        assert main(["--home", home, "audit", "export"]) == 2
        assert "a value is missing - mlcycle audit export" in capsys.readouterr().err

    def test_trust(self, home: str, workspace: Workspace, capsys: Captured) -> None:
        """A colleague's key, or what is none."""
        key = public_bytes(signing_key("a-colleague")).hex()

        assert main(["--home", home, "audit", "trust", key]) == 0
        assert capsys.readouterr().out.startswith("trusted: ")
        assert main(["--home", home, "audit", "trust", "xyz"]) == 2
        assert "not an Ed25519 public key (got 'xyz')" in capsys.readouterr().err
        assert verify(workspace.store).intact


class TestDoctor:
    """Each dependency with version, licence and state."""

    def test_it_says_what_is_well_and_what_is_not(
        self, home: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Exit code 0 when all that is required is there, 1 when something is not, with what mends it."""
        assert main(["--home", home, "--json", "doctor"]) == 0
        rows = {row["check"]: row for row in json.loads(capsys.readouterr().out)["findings"]}
        assert {"python", "sqlalchemy", "torch", "gateway", "disk", "database", "keys"} <= set(rows)
        assert rows["gateway"]["found"].startswith("Envoy 1.")

        monkeypatch.setenv("MLCYCLE_ENVOY", "/no/such/envoy")
        assert main(["--home", home, "doctor"]) == 1
        assert "MLCYCLE_ENVOY" in capsys.readouterr().out


class TestRefusals:
    """Exit code 2, and one line on standard error."""

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ([], "the following arguments are required: verb"),
            (["statsu"], "invalid choice: 'statsu'"),
            (["audit", "verfy"], "invalid choice: 'verfy'"),
            (["status", "--nonsense"], "unrecognized arguments: --nonsense"),
            (["models", "extra"], "unrecognized arguments: extra"),
        ],
    )
    def test_calls_that_cannot_be_meant(
        self, arguments: list[str], words: str, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And no workspace is made."""
        monkeypatch.chdir(tmp_path)

        assert main(arguments) == 2
        shown = capsys.readouterr()
        assert words in shown.err
        assert shown.err.count("\n") == 1
        assert shown.out == ""
        assert list(tmp_path.iterdir()) == []

    def test_a_suggestion(self, capsys: Captured) -> None:
        """The nearest verb."""
        assert main(["statsu"]) == 2
        assert "did you mean 'status'?" in capsys.readouterr().err

    def test_a_workspace_that_is_a_file(self, tmp_path: Path, capsys: Captured) -> None:
        """Named, and left as it is."""
        (tmp_path / "f").write_text("kept")

        assert main(["--home", str(tmp_path / "f"), "status"]) == 2
        assert "the workspace is not a folder" in capsys.readouterr().err
        assert (tmp_path / "f").read_text() == "kept"

    @pytest.mark.parametrize("verb", ["status", "down", "audit verify", "models", "alerts"])
    def test_a_workspace_that_is_not_there_is_not_made_by_looking(
        self, verb: str, tmp_path: Path, capsys: Captured
    ) -> None:
        """A typing error in --home must not look like an empty workspace."""
        assert main(["--home", str(tmp_path / "no"), *verb.split()]) == 2
        assert "there is no workspace" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path, capsys: Captured) -> None:
        """One line, no traceback."""
        (tmp_path / "f").write_text("")

        assert main(["--home", str(tmp_path / "f" / "ws"), "up"]) == 2
        assert "the workspace folder cannot be made: Not a directory" in capsys.readouterr().err


def test_a_disk_with_no_room_is_one_line(home: str, tmp_path: Path, capsys: Captured) -> None:
    """Exit code 2, like every refusal, and nothing is left. The kernel refuses the file as it would on a full disk."""
    script = tmp_path / "long.py"
    script.write_text("# much is said here\n" * 40_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        assert main(["--home", home, "train", "digits", "--script", str(script)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    said = capsys.readouterr().err
    assert said.startswith(
        "MLC-800: a file could not be written or read: File too large - let files be larger (ulimit -f)"
    )
    assert said.count("\n") == 1
    assert list((Path(home) / "training" / "jobs").iterdir()) == []


def test_as_a_program(home: str) -> None:
    """The installed command, and its version."""
    command = str(Path(sys.executable).with_name("mlcycle"))
    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    status = subprocess.run([command, "--home", home, "status"], capture_output=True, text=True, check=True)
    refused = subprocess.run([command, "nonsense"], capture_output=True, text=True, check=False)

    assert version.stdout.strip() == f"mlcycle-nb {__version__}"
    assert f"workspace {home}" in status.stdout
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    module = [sys.executable, "-m", "mlcycle_nb", "--version"]
    assert subprocess.run(module, capture_output=True, text=True, check=True).stdout == version.stdout


def test_model_card_from_a_terminal(workspace: Workspace, tmp_path: Path, capsys: Captured) -> None:
    """Written, checked with exit codes, and as JSON."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    rows = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    labels = (rows[:, 0] > 0).astype(int)
    workspace.development.register_estimator("digits", LogisticRegression().fit(rows, labels), reference=rows)
    home, card = ["--home", str(workspace.home)], tmp_path / "card.md"

    assert main([*home, "model", "card", "digits/1", "--licence", "MIT", "--to", str(card)]) == 0
    assert main([*home, "model", "card", "digits/1", "--check", str(card)]) == 0
    card.write_text(card.read_text().replace("| features | 3 |", "| features | 30 |"))
    capsys.readouterr()
    assert main([*home, "--json", "model", "card", "digits/1", "--check", str(card)]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert (problem["what"], problem["says"], problem["recorded"]) == ("features", "30", "3")
    assert main([*home, "model", "owner", "digits", "somebody"]) == 0
    assert main([*home, "model", "delete", "digits/1"]) == 2
    assert "owned by somebody" in capsys.readouterr().err
    assert main([*home, "model", "history", "digits", "--at", "whenever"]) == 2
