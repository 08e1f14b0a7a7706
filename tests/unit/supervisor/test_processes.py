"""Processes of a workspace: adopted by whoever comes next, stopped to the last child, and never a stranger's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mlcycle_nb.errors import EngineError, InvalidInput
from mlcycle_nb.supervisor.identity import ProcessIdentity
from mlcycle_nb.supervisor.processes import MARKER, ProcessTable, marker_of

SLEEP = ["sleep", "600"]
OWN = os.urandom(8).hex()
"""The workspace of these tests: another run of them on this machine at the same time has another one."""
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def open_table(tmp_path: Path) -> Iterator[Callable[[], ProcessTable]]:
    """Opens the table of one workspace again and again, as the supervisor that comes after a killed one would."""
    tables = []

    def another() -> ProcessTable:
        tables.append(ProcessTable(tmp_path / "processes", OWN))
        return tables[-1]

    yield another
    another().stop_all(grace_seconds=0.0)


@pytest.fixture
def table(open_table: Callable[[], ProcessTable]) -> ProcessTable:
    return open_table()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "process.log"


def shell(script: str) -> list[str]:
    return ["bash", "-c", script]


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"did not happen: {what}"
        time.sleep(0.01)


def wait_for_lines(log: Path, count: int) -> list[str]:
    until(lambda: log.exists() and log.read_text().count("\n") >= count, f"{count} lines in the log")
    return log.read_text().splitlines()


class TestStarting:
    """One process a name, in a session of its own, with a clean environment."""

    def test_the_same_name_is_the_same_process(self, table: ProcessTable, log: Path) -> None:
        """Asking again starts nothing."""
        first = table.ensure("sleeper", SLEEP, log=log)

        assert table.ensure("sleeper", SLEEP, log=log) == first == table.get("sleeper")
        assert table.names() == ["sleeper"]
        assert table.names("other") == []

    def test_it_has_a_session_and_a_log_of_its_own(self, table: ProcessTable, log: Path) -> None:
        """A signal to our group does not reach it; its output is appended, for this user only."""
        first = table.ensure("a", shell("echo out; echo err >&2; sleep 600"), log=log)
        wait_for_lines(log, 2)
        table.ensure("b", shell("pwd; sleep 600"), log=log)

        assert os.getsid(first.pid) == first.pid
        assert wait_for_lines(log, 3) == ["out", "err", str(log.parent)]
        assert log.stat().st_mode & 0o777 == 0o600

    def test_secrets_and_crash_points_are_not_inherited(
        self, table: ProcessTable, log: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What concerns the notebook's server, or one process only, stays there."""
        for name in ("JPY_API_TOKEN", "JUPYTER_TOKEN", "JUPYTERHUB_API_TOKEN", "MLCYCLE_CRASH_AT"):
            monkeypatch.setenv(name, "hunter2")
        monkeypatch.setenv("KEPT", "yes")
        table.ensure("p", shell("env; echo end"), env={"ADDED": "yes"}, log=log)
        until(lambda: log.exists() and "end\n" in log.read_text(), "the process has written")
        seen = log.read_text().splitlines()

        assert {"KEPT=yes", "ADDED=yes", f"{MARKER}={OWN}/p"} <= set(seen)
        assert "hunter2" not in log.read_text()

    @pytest.mark.parametrize("name", ["", "A", "../x", "a/b", "a b", "-a", "x" * 152])
    def test_names_are_file_names(self, name: str, table: ProcessTable, log: Path) -> None:
        """Anything else is refused before anything is started."""
        with pytest.raises(InvalidInput, match="process name breaks its grammar"):
            table.ensure(name, SLEEP, log=log)

    def test_a_program_that_is_not_there(self, table: ProcessTable, log: Path) -> None:
        """The error names program and reason, and nothing is recorded."""
        with pytest.raises(EngineError, match="/no/such/program cannot be started: No such file"):
            table.ensure("p", ["/no/such/program"], log=log)

        assert table.names() == []

    def test_exit_codes_of_own_children(
        self, table: ProcessTable, open_table: Callable[[], ProcessTable], log: Path
    ) -> None:
        """Known to the table that started it, once it has ended; unknown to others."""
        table.ensure("p", shell("read line < fifo; exit 7"), cwd=_fifo_folder(log), log=log)
        assert table.exit_code("p") is None
        (log.parent / "fifo").write_text("go\n")
        until(lambda: table.get("p") is None, "the process ends")

        assert table.exit_code("p") == 7
        assert open_table().exit_code("p") is None
        assert table.exit_code("never") is None

    def test_an_ended_process_is_started_again(self, table: ProcessTable, log: Path) -> None:
        """The same name, another process."""
        first = table.ensure("p", SLEEP, log=log)
        os.kill(first.pid, signal.SIGKILL)
        until(lambda: table.get("p") is None, "the process ends")

        assert table.ensure("p", SLEEP, log=log) != first


class TestAdoption:
    """What a killed supervisor has started is found by the next one, and only that."""

    def test_a_recorded_process_is_adopted(self, open_table: Callable[[], ProcessTable], log: Path) -> None:
        """By its pid and start time."""
        first = open_table().ensure("p", SLEEP, log=log)

        assert open_table().ensure("p", SLEEP, log=log) == first

    def test_a_process_started_but_not_recorded_is_adopted(
        self, open_table: Callable[[], ProcessTable], log: Path, tmp_path: Path
    ) -> None:
        """Its starter was killed between starting and recording it."""
        program = f"""
import os, signal
from pathlib import Path
from mlcycle_nb.supervisor.processes import ProcessTable

class Killed(ProcessTable):
    def _record(self, name, identity, argv):
        print(identity.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

Killed(Path({str(tmp_path / "processes")!r}), {OWN!r}).ensure("p", {SLEEP!r}, log=Path({str(log)!r}))
"""
        starter = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert starter.returncode == -signal.SIGKILL, starter.stderr
        table = open_table()
        assert table.get("p") is None

        assert table.ensure("p", SLEEP, log=log).pid == int(starter.stdout)
        assert table.names() == ["p"]

    def test_a_script_is_known_by_its_arguments(self, open_table: Callable[[], ProcessTable], log: Path) -> None:
        """The kernel shows a script's interpreter before the script."""
        script = log.parent.parent / "script"
        script.write_text("#!/bin/bash\necho started\nsleep 600\n")
        script.chmod(0o700)
        first = open_table().ensure("p", [str(script)], log=log)
        wait_for_lines(log, 1)
        _forget(log, "p")

        assert open_table().ensure("p", [str(script)], log=log) == first

    def test_an_orphan_is_not_taken_for_its_parent(self, open_table: Callable[[], ProcessTable], log: Path) -> None:
        """A worker in a session of its own, left by a killed launcher, carries the launcher's marker."""
        table = open_table()
        launcher = shell("setsid sleep 601 & echo $!; wait")
        first = table.ensure("job", launcher, log=log)
        orphan = int(wait_for_lines(log, 1)[0])
        os.kill(first.pid, signal.SIGKILL)
        until(lambda: table.get("job") is None, "the launcher ends")

        second = open_table().ensure("job", launcher, log=log)

        assert second.pid not in (first.pid, orphan)

    @pytest.mark.parametrize("spoilt", ["", "{", '{"pid": 1'])
    def test_a_torn_record_counts_as_none(self, spoilt: str, open_table: Callable[[], ProcessTable], log: Path) -> None:
        """Records are not synced: after a power loss one may be empty. The process is found by its marker."""
        first = open_table().ensure("p", SLEEP, log=log)
        (log.parent.parent / "processes" / "p.json").write_text(spoilt)

        assert open_table().ensure("p", SLEEP, log=log) == first


class TestStrangers:
    """A number that was given to another process since is never touched."""

    @pytest.fixture
    def stranger(self) -> Iterator[subprocess.Popen[bytes]]:
        """A process of this user, leader of its group, that is none of ours."""
        process = subprocess.Popen(SLEEP, start_new_session=True)
        yield process
        process.kill()
        process.wait()

    @pytest.mark.parametrize("started", ["1", "{ticks}", "{ticks}@another-boot"])
    def test_a_recycled_number(
        self, started: str, stranger: subprocess.Popen[bytes], table: ProcessTable, log: Path
    ) -> None:
        """Same pid but another start, or the same tick of another boot: not ours, neither adopted nor stopped."""
        identity = ProcessIdentity.of(stranger.pid)
        assert identity is not None
        ticks = identity.started.partition("@")[0]
        record = {"pid": stranger.pid, "started": started.format(ticks=ticks), "argv": SLEEP}
        (log.parent.parent / "processes" / "p.json").write_text(json.dumps(record))

        assert table.get("p") is None
        assert table.names() == []
        table.stop("p")
        assert table.stop_all() == []
        assert table.ensure("p", SLEEP, log=log).pid != stranger.pid
        assert identity.alive()

    def test_another_workspace_is_left_alone(self, open_table: Callable[[], ProcessTable], log: Path) -> None:
        """The same name in another workspace is another process."""
        other = ProcessTable(log.parent.parent / "other", "fedcba9876543210")
        theirs = other.ensure("p", SLEEP, log=log)
        ours = open_table().ensure("p", SLEEP, log=log)
        open_table().stop_all()

        assert not ours.alive()
        assert theirs.alive()
        assert other.stop_all() == ["p"]

    def test_a_process_of_one_workspace_may_stop_another(
        self, open_table: Callable[[], ProcessTable], log: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Only the very process that asks is spared, not one that happens to have its name elsewhere."""
        ours = open_table().ensure("job", SLEEP, log=log)
        monkeypatch.setenv(MARKER, "fedcba9876543210/job")

        assert open_table().stop_all() == ["job"]
        assert not ours.alive()

    def test_whoever_asks_is_spared(
        self, open_table: Callable[[], ProcessTable], log: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A job that brings its own workspace down goes on to say so."""
        ours = open_table().ensure("job", SLEEP, log=log)
        with monkeypatch.context() as inside:
            inside.setenv(MARKER, f"{OWN}/job")
            assert open_table().stop_all() == []

        assert ours.alive()


class TestStopping:
    """Stopping ends the process and all that it has started, and returns when they are gone."""

    def test_a_process_may_end_by_itself(self, table: ProcessTable, log: Path) -> None:
        """SIGTERM first: it can say goodbye."""
        table.ensure("p", shell("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"), log=log)
        wait_for_lines(log, 1)
        table.stop("p")

        assert log.read_text().splitlines()[-1] == "bye"
        assert table.exit_code("p") == 0
        assert table.get("p") is None

    def test_a_tree_that_ignores_the_request_is_killed(self, table: ProcessTable, log: Path) -> None:
        """Parent and child both ignore SIGTERM."""
        table.ensure("p", shell("trap '' TERM; (sleep 600; sleep 600) & echo $!; sleep 600; sleep 600"), log=log)
        child = ProcessIdentity.of(int(wait_for_lines(log, 1)[0]))
        assert child is not None
        table.stop("p", grace_seconds=0.2)

        assert not child.alive()
        assert table.exit_code("p") == -signal.SIGKILL

    def test_children_that_left_the_group_are_found(self, table: ProcessTable, log: Path) -> None:
        """A child in a session of its own is known by the marker that it inherited, even when its parent is dead."""
        first = table.ensure("p", shell("setsid sleep 600 & echo $!; wait"), log=log)
        child = ProcessIdentity.of(int(wait_for_lines(log, 1)[0]))
        assert child is not None
        os.kill(first.pid, signal.SIGKILL)
        until(lambda: table.get("p") is None, "the parent ends")
        assert child.alive()
        table.stop("p")

        assert not child.alive()

    def test_a_child_in_the_middle_of_an_exec_is_found(self) -> None:
        """It shows neither its environment nor its arguments for a moment, longer on a busy machine."""

        class Executing:
            pid = os.getpid()
            shown = iter([{}, {}, {}, {MARKER: "w/p"}])

            def environ(self) -> dict[str, str]:
                return next(self.shown)

            def cmdline(self) -> list[str]:
                return []

            def status(self) -> str:
                return psutil.STATUS_RUNNING

        assert marker_of(Executing()) == "w/p"  # type: ignore[arg-type]

    def test_a_process_without_an_environment_is_looked_at_once_more(self) -> None:
        class Bare:
            pid = os.getpid()
            looks = 0

            def environ(self) -> dict[str, str]:
                self.looks += 1
                return {}

            def cmdline(self) -> list[str]:
                return ["bare"]

            def status(self) -> str:
                return psutil.STATUS_SLEEPING

        bare = Bare()
        assert marker_of(bare) == ""  # type: ignore[arg-type]
        assert bare.looks == 2

    def test_children_without_the_marker_are_found(self, table: ProcessTable, log: Path) -> None:
        """A child with an environment of its own, that ignores SIGTERM too, is known by its group."""
        script = "env -i bash -c 'trap \"\" TERM; echo $$; while :; do sleep 0.1; done' & wait"
        table.ensure("p", shell(script), log=log)
        child = ProcessIdentity.of(int(wait_for_lines(log, 1)[0]))
        assert child is not None
        table.stop("p", grace_seconds=0.2)

        assert not child.alive()

    def test_a_suspended_process_ends_by_itself(self, table: ProcessTable, log: Path) -> None:
        """It is continued, so that it hears that it shall end; it is not killed after a long grace."""
        identity = table.ensure("p", SLEEP, log=log)
        os.kill(identity.pid, signal.SIGSTOP)
        until(identity.suspended, "it was not suspended")
        table.stop("p", grace_seconds=60)

        assert not identity.alive()
        assert not identity.suspended()
        assert table.exit_code("p") == -signal.SIGTERM

    def test_stopping_what_is_not_there(self, table: ProcessTable) -> None:
        """No error: it is as asked."""
        table.stop("never")

        assert table.stop_all() == []

    def test_everything_is_stopped(self, open_table: Callable[[], ProcessTable], log: Path) -> None:
        """Recorded or not, the names come back sorted, and the folder is empty."""
        table = open_table()
        identities = [table.ensure(name, SLEEP, log=log) for name in ("b", "a", "c")]
        _forget(log, "c")

        assert open_table().stop_all() == ["a", "b", "c"]
        assert not any(identity.alive() for identity in identities)
        assert list((log.parent.parent / "processes").iterdir()) == []


class TestIdentity:
    """A pid with its start, and a zombie is dead."""

    def test_a_zombie_is_not_alive(self) -> None:
        """It has a pid and nothing else."""
        child = subprocess.Popen(["true"])
        until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE, "the child ends")

        assert ProcessIdentity.of(child.pid) is None
        child.wait()
        assert ProcessIdentity.of(child.pid) is None

    def test_a_strange_program_name(self, tmp_path: Path) -> None:
        """The kernel shows the name in brackets, which the name may contain."""
        program = tmp_path / "a) R 1 (b"
        program.symlink_to("/bin/sleep")
        child = subprocess.Popen([str(program), "600"])
        identity = ProcessIdentity.of(child.pid)
        assert identity is not None
        alive = identity.alive()
        child.kill()
        until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE, "the child ends")
        zombie_alive = identity.alive()
        child.wait()

        assert (alive, zombie_alive, identity.alive()) == (True, False, False)


def _forget(log: Path, name: str) -> None:
    (log.parent.parent / "processes" / f"{name}.json").unlink()


def _fifo_folder(log: Path) -> Path:
    log.parent.mkdir()
    os.mkfifo(log.parent / "fifo")
    return log.parent
