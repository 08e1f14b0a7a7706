"""One workspace for all tests of this folder: three versions of a model behind a real gateway, and nothing faked."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlcycle_nb.packages import PackageStore, build_package
from mlcycle_nb.supervisor.identity import ProcessIdentity
from mlcycle_nb.supervisor.start import find_supervisor
from mlcycle_nb.testing import Traffic
from mlcycle_nb.workspace import Workspace
from tests.conftest import living

ENVIRONMENT = "dev"
MODEL = "digits"
GOOD, BETTER, PERMUTED = 1, 2, 3


@pytest.fixture(scope="package", autouse=True)
def keys_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep these tests away from the user's own keys and settings, as long as their workspace lives."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("keys")
        patch.setenv("MLCYCLE_KEYS", str(folder))
        for variable in ("MLCYCLE_HOME", "MLCYCLE_DATABASE_URL", "MLFLOW_TRACKING_URI", "MLCYCLE_CRASH_AT"):
            patch.delenv(variable, raising=False)
        yield folder


@pytest.fixture(scope="package")
def rows() -> NDArray[np.float32]:
    """Rows that no version has learned from."""
    from sklearn.datasets import load_digits

    return (load_digits().data[1400:] / 16).astype(np.float32)


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the workspace."""
    return tmp_path_factory.mktemp("lab") / ".mlcycle"


@pytest.fixture(scope="package")
def workspace(home: Path, keys_of_their_own: Path) -> Iterator[Workspace]:
    """A workspace with `digits`: versions 1 and 2 are good, 3 is quietly wrong; nothing is left of it afterwards."""
    opened = Workspace.open(home)
    register_versions(opened)
    yield opened
    ports = [port for port in (gateway_port(opened, name) for name in ("dev", "production")) if port]
    opened.down()
    left = living(opened)
    opened.close()
    assert not left, f"processes left behind: {left}"
    assert not [path for path in home.rglob("*") if path.is_socket()], "sockets left behind"
    assert not [port for port in ports if listening(port)], "ports left behind"
    shutil.rmtree(home)
    assert not list(home.parent.iterdir()), "files left behind"


def register_versions(workspace: Workspace) -> None:
    """Build and register versions 1, 2 and 3 of `digits`."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target
    permuted = np.roll(np.arange(10), 1)[y]
    store = PackageStore(workspace.context.folder("packages"))
    for known, classes in ((1200, y), (1400, y), (1400, permuted)):
        model = LogisticRegression(max_iter=100, tol=1e-2).fit(x[:known], classes[:known])
        package = build_package(model, example=x[:64], reference=x[:500], out=store)
        workspace.development.register_model(MODEL, package)


@dataclass(frozen=True)
class Served:
    """`digits` in one environment, and who may ask."""

    workspace: Workspace
    rows: NDArray[np.float32]
    url: str
    key: str

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.removeprefix("http://")

    @property
    def authorized(self) -> dict[str, str]:
        """The header that opens the gateway."""
        return {"authorization": f"Bearer {self.key}"}

    @property
    def stable(self) -> int | None:
        """The stable version."""
        return self.workspace.deployment.status(MODEL, ENVIRONMENT).stable

    def load(self, clients: int = 3, per_second: float | None = 150.0) -> Traffic:
        """Requests that go on until stopped, every one of them remembered."""
        return Traffic(self.url, MODEL, self.key, self.rows, concurrency=clients, per_second=per_second)

    def process(self, name: str) -> ProcessIdentity:
        """Return a running process of the workspace."""
        identity = self.workspace.context.processes.get(name)
        assert identity is not None, f"{name} does not run: {self.workspace.context.processes.names()}"
        return identity

    def bring_stable(self, version: int, replicas: int = 2) -> None:
        """Have `version` be the stable one, with all its replicas taking requests."""
        if self.stable != version:
            self.workspace.deployment.deploy_model(
                f"{MODEL}/{version}", ENVIRONMENT, "all-at-once", replicas=replicas, warm="1s"
            ).wait(60)
        until(lambda: self.ready(version) >= replicas)

    def ready(self, version: int) -> int:
        """Replicas of a version that take requests."""
        found = self.workspace.deployment.status(MODEL, ENVIRONMENT).revisions
        return next((one.ready for one in found if one.version == version), 0)


@pytest.fixture(scope="package")
def served(workspace: Workspace, rows: NDArray[np.float32]) -> Served:
    """Version 1 with two replicas, answering."""
    workspace.deployment.deploy_model(f"{MODEL}/{GOOD}", ENVIRONMENT, "all-at-once", replicas=2).wait(90)
    made = workspace.deployment.add_consumer("tester", ENVIRONMENT)
    with workspace.deployment.client(MODEL, ENVIRONMENT) as client:
        client.predict(rows[:1])
        return Served(workspace, rows, client.base_url, made.key)


def kill(identity: ProcessIdentity) -> None:
    """Kill -9, and return when it is dead."""
    os.kill(identity.pid, signal.SIGKILL)
    until(lambda: not identity.alive())


def supervisor_of(workspace: Workspace) -> ProcessIdentity:
    """Return the running supervisor."""
    found = find_supervisor(workspace.home)
    assert found is not None
    return found


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Return what the condition gives once it holds; fail when it never does."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.02)
    return found


def gateway_port(workspace: Workspace, environment: str) -> int | None:
    """Return the port of an environment's gateway, when it has run."""
    from mlcycle_nb.deployment.records import Gateway

    url = str(workspace.store.observed(Gateway, environment).get("url", ""))
    return int(url.rpartition(":")[2]) if url else None


def listening(port: int) -> bool:
    """Whether anybody answers at a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def report(request: pytest.FixtureRequest, text: str) -> None:
    """Keep a number that a test has measured for the summary."""
    request.node.user_properties.append(("measured", text))
