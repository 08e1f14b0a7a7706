"""The supervisor as a process: one at a time, started by whoever needs it, gone without a trace."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from mlcycle_nb.errors import EngineError
from mlcycle_nb.supervisor.start import (
    FROZEN_SECONDS,
    ensure_supervisor,
    find_supervisor,
    stop_supervisor,
    take_lock,
)
from mlcycle_nb.workspace import Workspace


class TestStart:
    """Any client may start it; there is never more than one."""

    def test_many_starters_get_the_same_supervisor(self, workspace: Workspace) -> None:
        """Five clients at once end up with one process."""
        with ThreadPoolExecutor(5) as pool:
            found = list(pool.map(lambda _: ensure_supervisor(workspace.home, workspace.settings), range(5)))

        assert len({identity.pid for identity in found}) == 1
        assert take_lock(workspace.home) is None

    def test_it_is_in_a_session_of_its_own(self, workspace: Workspace) -> None:
        """An interrupt of the kernel's process group does not reach it."""
        identity = ensure_supervisor(workspace.home, workspace.settings)

        assert os.getsid(identity.pid) == identity.pid != os.getsid(0)

    def test_a_broken_settings_file_is_named(self, workspace: Workspace) -> None:
        """A supervisor that cannot start says why, in one line."""
        (workspace.home.parent / "mlcycle.toml").write_text("[serving]\nreplicsa = 2\n")

        with pytest.raises(EngineError, match=r"replicsa.*did you mean 'replicas'"):
            workspace.context.ensure_supervisor()


class TestDeath:
    """Killed or stopped, it leaves a workspace that the next one can lead."""

    def test_after_a_kill_the_next_leads_with_a_higher_fence(self, workspace: Workspace) -> None:
        """The lock of a killed process is free at once."""
        first = ensure_supervisor(workspace.home, workspace.settings)
        _, fence = workspace.store.leader() or ("", 0)
        os.kill(first.pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(first.pid)] if first.alive() else [], timeout=5)

        second = ensure_supervisor(workspace.home, workspace.settings)

        assert second != first
        assert workspace.store.leader() == (f"{socket.gethostname()}:{second.pid}", fence + 1)

    def test_a_suspended_one_is_replaced(self, workspace: Workspace) -> None:
        """It holds the lock and does nothing; one that goes on within five seconds is left alone."""
        first = ensure_supervisor(workspace.home, workspace.settings)
        _, fence = workspace.store.leader() or ("", 0)
        os.kill(first.pid, signal.SIGSTOP)
        assert ensure_supervisor(workspace.home, workspace.settings) == first
        os.kill(first.pid, signal.SIGCONT)
        time.sleep(FROZEN_SECONDS)
        assert ensure_supervisor(workspace.home, workspace.settings) == first

        os.kill(first.pid, signal.SIGSTOP)
        began = time.monotonic()
        while (second := ensure_supervisor(workspace.home, workspace.settings)) == first:
            assert time.monotonic() - began < 30
            time.sleep(0.1)

        assert time.monotonic() - began >= FROZEN_SECONDS
        assert not first.alive()
        assert workspace.store.leader() == (f"{socket.gethostname()}:{second.pid}", fence + 1)

    def test_down_ends_it_and_what_it_started(self, workspace: Workspace, tmp_path: Path) -> None:
        """After `down` there is no process and no lock."""
        ensure_supervisor(workspace.home, workspace.settings)
        child = workspace.context.processes.ensure("sleeper", ["sleep", "600"], log=tmp_path / "sleeper.log")

        stopped = workspace.down()

        assert stopped == ["supervisor", "sleeper"]
        assert find_supervisor(workspace.home) is None
        assert not child.alive()
        lock = take_lock(workspace.home)
        assert lock is not None
        os.close(lock)

    def test_stopping_twice_is_no_error(self, workspace: Workspace) -> None:
        """The second call finds nothing to stop."""
        ensure_supervisor(workspace.home, workspace.settings)

        assert stop_supervisor(workspace.home) is True
        assert stop_supervisor(workspace.home) is False

    def test_a_removed_workspace_is_left_by_its_supervisor(self, tmp_path: Path) -> None:
        """Deleting the folder ends the supervisor and its processes: nobody could find them any more."""
        opened = Workspace.open(tmp_path / "gone")
        identity = ensure_supervisor(opened.home, opened.settings)
        opened.close()
        subprocess.run(["rm", "-rf", str(opened.home)], check=True)

        psutil.Process(identity.pid).wait(timeout=20)


class TestLightImport:
    """Loading the extension imports nothing heavy."""

    HEAVY = (
        "torch",
        "mlflow",
        "altair",
        "pandas",
        "numpy",
        "alibi_detect",
        "ipywidgets",
        "onnxruntime",
        "pyarrow",
        "sqlalchemy",
    )

    @pytest.mark.parametrize("statement", ["import mlcycle_nb", "ip.run_line_magic('load_ext', 'mlcycle_nb')"])
    def test_no_heavy_module_is_loaded(self, statement: str, tmp_path: Path) -> None:
        """Neither the import nor `%load_ext` pulls a heavy package in."""
        program = (
            "import sys\nfrom IPython.core.interactiveshell import InteractiveShell\n"
            f"ip = InteractiveShell.instance()\n{statement}\n"
            f"print([m for m in {self.HEAVY!r} if m in sys.modules])"
        )

        shown = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path, timeout=120
        )

        assert shown.stdout.strip() == "[]"
        assert not (tmp_path / ".mlcycle").exists()
