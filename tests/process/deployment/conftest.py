"""Real packages of digits models, deployed by a real supervisor behind a real gateway."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mlcycle_nb.deployment.records import Rollout
from mlcycle_nb.deployment.service import ModelDeploymentManager
from mlcycle_nb.errors import NotFound
from mlcycle_nb.packages import PackageStore, build_package
from mlcycle_nb.supervisor.start import find_supervisor
from mlcycle_nb.testing.traffic import Traffic
from mlcycle_nb.workspace import Workspace

ENVIRONMENT = "staging"


@dataclass(frozen=True)
class Built:
    """Packages by version, and rows to ask about."""

    root: Path
    digests: dict[int, str]
    rows: NDArray[np.float32]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Versions 1 and 2 are good, nearly alike; 3 has its classes permuted: quietly wrong; 4 always says 3."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target
    root = tmp_path_factory.mktemp("packages")
    store = PackageStore(root)
    permuted = np.roll(np.arange(10), 1)[y]
    models = {
        1: LogisticRegression(max_iter=60, C=0.5).fit(x[:1200], y[:1200]),
        2: LogisticRegression(max_iter=60, C=1.0).fit(x[:1400], y[:1400]),
        3: LogisticRegression(max_iter=60, C=1.0).fit(x[:1400], permuted[:1400]),
    }
    constant = LogisticRegression(max_iter=60).fit(x[:1200], y[:1200])
    constant.coef_ *= 1e-3
    constant.intercept_[:] = np.eye(10)[3] * 9
    models[4] = constant
    digests = {
        version: build_package(model, example=x[:64], reference=x[:500], out=store).digest
        for version, model in models.items()
    }
    return Built(root, digests, x[1400:])


@dataclass(frozen=True)
class Version:
    name: str
    version: int
    package_digest: str


class Registered:
    """The packages of this session under the name `digits`."""

    def __init__(self, digests: dict[int, str]) -> None:
        self.digests = digests

    def get_version(self, reference: str) -> Version:
        name, _, version = reference.partition("/")
        if name != "digits" or int(version) not in self.digests:
            raise NotFound("there is no such version", value=reference)
        return Version(name, int(version), self.digests[int(version)])


class Open:
    """Gates that let everything pass."""

    def is_valid_for(self, reference: str, environment: str) -> tuple[bool, str]:
        return True, ""


class Deployed:
    """The service of one workspace, with load on it."""

    def __init__(self, workspace: Workspace, built: Built) -> None:
        self.workspace = workspace
        self.built = built
        self.store = workspace.store
        self.manager = ModelDeploymentManager(workspace.context, Registered(built.digests), Open())

    def deploy(self, version: int, **options: object):
        options = {"environment": ENVIRONMENT, "replicas": 2, **options}
        return self.manager.deploy_model(f"digits/{version}", **options)

    def up(self, version: int = 1, **options: object) -> Rollout:
        """Deploy and wait until it is stable."""
        record = self.deploy(version, strategy="all-at-once", **options).wait(120)
        assert record.phase == "completed", record.history
        return record

    def load(self, *, clients: int = 4, per_second: float | None = None) -> Traffic:
        with self.manager.client("digits", ENVIRONMENT) as client:
            url, key = client.base_url, client.key
        return Traffic(url, "digits", key, self.built.rows, concurrency=clients, per_second=per_second)

    def status(self):
        return self.manager.status("digits", ENVIRONMENT)

    def kill_supervisor(self) -> None:
        identity = find_supervisor(self.workspace.home)
        assert identity is not None
        os.kill(identity.pid, signal.SIGKILL)
        until(lambda: not identity.alive())

    def kill(self, name: str) -> None:
        identity = self.workspace.context.processes.get(name)
        assert identity is not None, f"{name} does not run"
        os.kill(identity.pid, signal.SIGKILL)


def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Return once the condition holds; fail when it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.02)


@pytest.fixture
def deployed(workspace: Workspace, built: Built) -> Iterator[Deployed]:
    target = workspace.context.folder("packages")
    for folder in built.root.iterdir():
        shutil.copytree(folder, target / folder.name)
    yield Deployed(workspace, built)
    log = workspace.home / "logs" / "supervisor.log"
    if log.exists():
        print("supervisor log:", log.read_text()[-6000:])
