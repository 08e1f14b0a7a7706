"""A workspace with a registered model, and traffic written by the real prediction log writer."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlcycle_nb.packages import Package, PackageStore, build_package, load_runtime
from mlcycle_nb.supervisor.start import find_supervisor
from mlcycle_nb.testing.predictions import PredictionFeed
from mlcycle_nb.workspace import Workspace

FEATURES = ("age", "income", "debt", "score", "tenure", "member")


def rows(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(count, 6))
    numbers[:, 5] = rng.integers(0, 2, count)
    return numbers.astype(np.float32)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Package:
    from sklearn.linear_model import LogisticRegression

    data = rows(2000, 0)
    truth = (data[:, 0] + data[:, 1] > 0).astype(int)
    return build_package(
        LogisticRegression().fit(data, truth),
        example=data[:200],
        reference=data,
        reference_labels=truth,
        feature_names=FEATURES,
        class_names=("no", "yes"),
        out=PackageStore(tmp_path_factory.mktemp("packages")),
    )


class Served:
    """Answers rows with the model, and logs them as served."""

    def __init__(self, workspace: Workspace, package: Package) -> None:
        self.feed = PredictionFeed(workspace.home, "production", "credit", 1)
        self.runtime = load_runtime(package)

    def send(self, inputs: np.ndarray[Any, Any], **more: Any) -> dict[str, int]:
        outputs = self.runtime.predict({"input": inputs})
        ids = self.feed.send(inputs, outputs, **more)
        return dict(zip(ids, outputs["label"].tolist(), strict=True))


@pytest.fixture
def registered(workspace: Workspace, built: Package) -> Package:
    package = PackageStore(workspace.context.folder("packages")).add(built.path)
    workspace.development.register_model("credit", package)
    return package


@pytest.fixture
def served(workspace: Workspace, registered: Package) -> Served:
    return Served(workspace, registered)


@pytest.fixture
def until() -> Callable[..., Any]:
    """Wait until a condition holds; the condition's own value is returned."""

    def wait(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = condition()
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"the condition did not hold within {seconds} s")

    return wait


def kill_supervisor(home: Path) -> None:
    running = find_supervisor(home)
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    while running.alive():
        time.sleep(0.01)
        try:
            os.waitpid(running.pid, os.WNOHANG)
        except ChildProcessError:
            continue
