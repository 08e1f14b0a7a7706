"""Fixtures of the frame: every test has a workspace and keys of its own, and leaves nothing running."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import psutil
import pytest

from mlcycle_nb.context import Context, open_context
from mlcycle_nb.settings import load_settings
from mlcycle_nb.store import Store
from mlcycle_nb.store.database import open_engine
from mlcycle_nb.supervisor.processes import MARKER
from mlcycle_nb.supervisor.sockets import remove_socket_folder
from mlcycle_nb.testing import FakeClock
from mlcycle_nb.workspace import Workspace

# A busy machine is slow, not wrong; and tests leave no files. The same examples each time, so that a change is judged
# by what it changes; `make test-faults` looks for new ones.
hypothesis.settings.register_profile("same", deadline=None, database=None, derandomize=True)
hypothesis.settings.register_profile("new", deadline=None, database=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(autouse=True)
def keys_of_their_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every test away from the user's own keys and settings."""
    folder = tmp_path_factory.mktemp("keys")
    monkeypatch.setenv("MLCYCLE_KEYS", str(folder))
    for variable in ("MLCYCLE_HOME", "MLCYCLE_DATABASE_URL", "MLFLOW_TRACKING_URI", "MLCYCLE_CRASH_AT"):
        monkeypatch.delenv(variable, raising=False)
    return folder


@pytest.fixture(autouse=True)
def no_history_left(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep shells away from the user's own history, and end the threads that write it: each shell starts one."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path_factory.getbasetemp() / "ipython"))
    yield
    history = sys.modules.get("IPython.core.history")
    for manager in [] if history is None else list(history.HistoryManager._instances):
        if manager.save_thread is not None:
            manager.save_thread.stop()


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


# -- databases -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Path]:
    """A PostgreSQL server of the tests' own; gives the folder of its Unix socket, and listens nowhere else."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    found = str(programs[-1]) if programs else shutil.which("postgres")
    if found is None:
        _absent("there is no PostgreSQL server here: apt-get install postgresql")
    pytest.importorskip("psycopg") if os.environ.get("CI") != "true" else __import__("psycopg")
    # Short, because a socket's path has a limit, and not pytest's own folder, which the server's user cannot enter.
    folder = Path(tempfile.mkdtemp(prefix="mlcycle-pg-", dir="/tmp"))
    become: list[str] = []
    if os.getuid() == 0:  # the server refuses to run as root
        user = next(entry for entry in pwd.getpwall() if entry.pw_name in {"postgres", "nobody"})
        os.chown(folder, user.pw_uid, user.pw_gid)
        become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    data = folder / "data"
    make = [str(Path(found).with_name("initdb")), "-D", str(data), "-U", "mlcycle", "-A", "trust", "-E", "UTF8"]
    subprocess.run(
        [*become, *make, "--locale=C", "--no-sync"], check=True, cwd=folder, capture_output=True, timeout=120
    )
    serve = [found, "-D", str(data), "-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*become, *serve], cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_it_answers(folder, server)
        yield folder
    finally:
        server.send_signal(signal.SIGINT)  # ends its sessions, then itself
        server.wait(timeout=60)
        shutil.rmtree(folder)


def _wait_until_it_answers(folder: Path, server: subprocess.Popen[bytes]) -> None:
    import psycopg

    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(_conninfo(folder)).close()
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL did not start: {(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)
        else:
            return


def _conninfo(folder: Path, database: str = "postgres") -> str:
    return f"host={folder} user=mlcycle dbname={database}"


_databases = itertools.count(1)


@contextmanager
def _fresh_database(server: Path, template: str = "template0") -> Iterator[str]:
    import psycopg

    name = f"test_{next(_databases)}"
    with psycopg.connect(_conninfo(server), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield f"postgresql://mlcycle@/{name}?host={server}"
    with psycopg.connect(_conninfo(server), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_url(postgres_server: Path) -> Iterator[str]:
    """A fresh, empty database on the tests' own PostgreSQL server."""
    with _fresh_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a database that has the tables and nothing else: copying it is faster than migrating again."""
    with _fresh_database(postgres_server) as url:
        open_engine(url, tmp_path_factory.mktemp("template")).dispose()
        yield url.split("@/")[1].split("?")[0]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each kind of database in turn: empty for SQLite in the workspace folder, or a PostgreSQL URL."""
    if request.param == "sqlite":
        yield ""
        return
    server, template = request.getfixturevalue("postgres_server"), request.getfixturevalue("migrated_postgres")
    with _fresh_database(server, template) as url:
        yield url


@pytest.fixture
def open_store(tmp_path: Path, database_url: str, fake_clock: FakeClock) -> Iterator[Callable[[], Store]]:
    """Opens the same database again, as another process of this user would."""
    opened: list[Store] = []

    def another() -> Store:
        opened.append(Store(tmp_path / ".mlcycle", fake_clock, database_url))
        return opened[-1]

    yield another
    for store in opened:
        store.close()


@pytest.fixture
def any_store(open_store: Callable[[], Store]) -> Store:
    """An empty store, on each kind of database in turn."""
    return open_store()


def _absent(what: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the numbers that tests have measured, also those of tests that passed."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    measured = [text for report in reports if report.when == "call" for name, text in report.user_properties
                if name == "measured"]  # fmt: skip
    if measured:
        terminalreporter.section("measured")
    for text in measured:
        terminalreporter.line(str(text))
