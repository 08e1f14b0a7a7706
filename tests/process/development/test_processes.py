"""MLflow with real processes: racing first starts, kills between two writes, silence, a shared server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlcycle_nb.context import Context, open_context
from mlcycle_nb.development.service import ModelDevelopmentManager
from mlcycle_nb.settings import load_settings

pytestmark = pytest.mark.timeout(300)

RUN = """
import sys
from pathlib import Path
from mlcycle_nb.context import open_context
from mlcycle_nb.development.service import ModelDevelopmentManager
from mlcycle_nb.settings import load_settings

context = open_context(Path(sys.argv[1]), load_settings(environ={}))
development = ModelDevelopmentManager(context)
with development.start_run(run_name=sys.argv[2]) as run:
    run.log_metrics({"loss": 1.0})
"""

REGISTER = """
import sys
from pathlib import Path
from mlcycle_nb.context import open_context
from mlcycle_nb.development.service import ModelDevelopmentManager
from mlcycle_nb.packages import PackageStore
from mlcycle_nb.settings import load_settings

context = open_context(Path(sys.argv[1]), load_settings(environ={}))
development = ModelDevelopmentManager(context)
package = PackageStore(context.folder("packages")).open(sys.argv[2])
version = development.register_model("digits", package)
if sys.argv[3:]:
    development.set_alias("digits", sys.argv[3], version.version)
print(version.reference)
"""


def python(code: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def digest_of_a_package(context: Context) -> str:
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    from mlcycle_nb.packages import PackageStore, build_package

    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    model = LogisticRegression().fit(rows, (rows[:, 0] > 0).astype(np.int64))
    store = PackageStore(context.folder("packages"))
    return str(build_package(model, example=rows[:10], task="classification", out=store).digest)


def test_racing_first_starts_all_succeed_in_silence(context: Context) -> None:
    """Four processes make MLflow's database at once; none fails and none says a word."""
    racing = [python(RUN, context.home, f"run-{number}") for number in range(4)]
    said = [process.communicate() for process in racing]

    assert [process.returncode for process in racing] == [0, 0, 0, 0], said
    assert said == [("", "")] * 4
    runs = ModelDevelopmentManager(context).runs()
    assert sorted(run.name for run in runs) == ["run-0", "run-1", "run-2", "run-3"]
    assert not list(context.home.glob(".mlflow.db*"))
    assert not Path("mlruns").exists()


def test_a_kill_between_registry_and_record_is_repaired(context: Context) -> None:
    digest = digest_of_a_package(context)
    killed = python(REGISTER, context.home, digest, MLCYCLE_CRASH_AT="development.after_registry")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    development = ModelDevelopmentManager(context)
    assert development.models() == []

    again = python(REGISTER, context.home, digest)
    assert again.communicate()[0] == "digits/2\n"
    assert [v.version for v in development.versions("digits")] == [2, 1]


def test_a_kill_between_alias_and_record_is_repaired(context: Context) -> None:
    digest = digest_of_a_package(context)
    killed = python(REGISTER, context.home, digest, "champion", MLCYCLE_CRASH_AT="development.after_alias")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    development = ModelDevelopmentManager(context)
    assert development.aliases("digits") == {}

    development.set_alias("digits", "champion", 1)
    assert development.aliases("digits") == {"champion": 1}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real MLflow tracking server on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "server"
    folder.mkdir()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/db", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with (tmp_path / "server.log").open("wb") as log:
        started = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, start_new_session=True,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2).read()
                break
            except OSError:
                assert started.poll() is None, (tmp_path / "server.log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
                time.sleep(0.1)
        yield url
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def test_a_shared_server_works_the_same(server: str, tmp_path: Path) -> None:
    """Runs, artifacts, versions and aliases over HTTP; an alias moved by somebody else is seen at once."""
    from mlflow import MlflowClient

    settings = load_settings(environ={}, overrides={"workspace": {"tracking_uri": server}})
    context = open_context(tmp_path / "shared" / ".mlcycle", settings)
    try:
        development = ModelDevelopmentManager(context)
        digest = digest_of_a_package(context)
        from mlcycle_nb.packages import PackageStore

        package = PackageStore(context.folder("packages")).open(digest)
        with development.start_run(run_name="remote", cell="x = 1") as run:
            run.log_metrics({"loss": 0.5})
        assert development.provenance(run.id).cell == "x = 1"
        for _ in range(2):
            development.register_model("digits", package, tags={"team": "vision"})
        development.set_alias("digits", "champion", 1)
        MlflowClient(tracking_uri=server, registry_uri=server).set_registered_model_alias("digits", "champion", "2")

        assert development.get_version("digits@champion").version == 2
        assert development.get_version("digits/1").package_digest == digest
    finally:
        context.store.close()
