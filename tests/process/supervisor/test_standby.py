"""Two supervisors on one PostgreSQL database, as on two hosts: one leads, the other takes over."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlcycle_nb.clock import SystemClock
from mlcycle_nb.settings import Settings, load_settings
from mlcycle_nb.store import Store
from mlcycle_nb.supervisor.identity import ProcessIdentity
from mlcycle_nb.supervisor.start import ensure_supervisor, find_supervisor, stop_supervisor


@pytest.fixture
def shared(postgres_url: str) -> Settings:
    """Settings that name the same database for both."""
    return load_settings(environ={}, overrides={"workspace": {"database_url": postgres_url}})


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A workspace folder on each of two hosts."""
    folders = tmp_path / "one" / ".mlcycle", tmp_path / "two" / ".mlcycle"
    for folder in folders:
        folder.mkdir(parents=True)
    yield folders
    for folder in folders:
        stop_supervisor(folder)


@pytest.mark.postgres
@pytest.mark.timeout(120)
def test_one_leads_and_the_other_takes_over(homes: tuple[Path, Path], shared: Settings) -> None:
    """Both are ready; the first leads; killed, the second leads with a higher fencing number."""
    store = Store(homes[0], SystemClock(), shared.workspace.database_url)
    first = ensure_supervisor(homes[0], shared)
    second = ensure_supervisor(homes[1], shared)

    assert store.leader() == (_holder(first), 1)
    os.kill(first.pid, signal.SIGKILL)
    _wait_for_lead(store, (_holder(second), 2))
    assert find_supervisor(homes[0]) is None
    assert second.alive()

    third = ensure_supervisor(homes[0], shared)
    assert stop_supervisor(homes[1]) is True
    _wait_for_lead(store, (_holder(third), 3))
    store.close()


def _holder(identity: ProcessIdentity) -> str:
    return f"{socket.gethostname()}:{identity.pid}"


def _wait_for_lead(store: Store, wanted: tuple[str, int]) -> None:
    deadline = time.monotonic() + 60
    while store.leader() != wanted:
        assert time.monotonic() < deadline, f"led by {store.leader()}, not by {wanted}"
        time.sleep(0.05)
