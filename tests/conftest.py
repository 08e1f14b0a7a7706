"""Fixtures of the frame: every test has a workspace and keys of its own, and leaves nothing running."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mlcycle_nb.context import Context, open_context
from mlcycle_nb.settings import load_settings
from mlcycle_nb.supervisor.processes import MARKER
from mlcycle_nb.supervisor.sockets import remove_socket_folder
from mlcycle_nb.testing import FakeClock
from mlcycle_nb.workspace import Workspace


@pytest.fixture(autouse=True)
def keys_of_their_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every test away from the user's own keys and settings."""
    folder = tmp_path_factory.mktemp("keys")
    monkeypatch.setenv("MLCYCLE_KEYS", str(folder))
    for variable in ("MLCYCLE_HOME", "MLCYCLE_DATABASE_URL", "MLFLOW_TRACKING_URI", "MLCYCLE_CRASH_AT"):
        monkeypatch.delenv(variable, raising=False)
    return folder


@pytest.fixture
def fake_clock() -> FakeClock:
    """A clock that moves only when the test moves it."""
    return FakeClock()


@pytest.fixture
def context(tmp_path: Path, fake_clock: FakeClock) -> Iterator[Context]:
    """A workspace's context with the fake clock; no supervisor."""
    opened = open_context(tmp_path / ".mlcycle", load_settings(environ={}), actor="tester@here", clock=fake_clock)
    yield opened
    opened.processes.stop_all()
    opened.store.close()
    remove_socket_folder(opened.home)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A fresh workspace, brought down afterwards and checked for leftovers."""
    opened = Workspace.open(tmp_path / ".mlcycle")
    yield opened
    opened.down()
    opened.close()
    left = living(opened)
    assert not left, f"processes left behind: {left}"
    shutil.rmtree(opened.home)


def living(workspace: Workspace) -> list[str]:
    """Return the command lines of processes that carry this workspace's marker."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER, "").startswith(f"{workspace.context.workspace_id}/"):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found
