"""A real package of a small classifier, and monitors over it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.monitoring.records import Monitor
from mlcycle_nb.packages import Package, PackageStore, build_package

FEATURES = ("age", "income", "debt", "score", "tenure", "member")


def rows(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Five numbers and one flag."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(count, 6))
    numbers[:, 5] = rng.integers(0, 2, count)
    return numbers.astype(np.float32)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A logistic regression on six features, with labels in its reference window."""
    from sklearn.linear_model import LogisticRegression

    data = rows(2000, 0)
    truth = (data[:, 0] + data[:, 1] + 0.5 * np.random.default_rng(1).normal(size=2000) > 0).astype(int)
    model = LogisticRegression().fit(data, truth)
    return build_package(
        model,
        example=data[:200],
        reference=data,
        reference_labels=truth,
        feature_names=FEATURES,
        class_names=("no", "yes"),
        out=PackageStore(tmp_path_factory.mktemp("packages")),
    )


@pytest.fixture
def package(built: Package, context: Context) -> Package:
    """The package, in the test's own workspace."""
    return PackageStore(context.folder("packages")).add(built.path)


@pytest.fixture
def declare(context: Context) -> Callable[..., Monitor]:
    """Store a running monitor of ``production/credit``."""

    def make(**fields: Any) -> Monitor:
        monitor = Monitor(
            **{
                "id": "production/credit",
                "phase": "running",
                "created_at": context.clock.now(),
                "environment": "production",
                "model": "credit",
                "window": 100,
                "detectors": ("ks", "chi_squared"),
                "channels": ("notebook", "log"),
                **fields,
            }
        )
        with context.store.transaction(actor="tester") as transaction:
            return transaction.insert(monitor, event="monitor.started")

    return make


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    """A private file with a webhook secret."""
    file = tmp_path / "secret"
    file.write_text("a-secret-of-more-than-24-bytes!!")
    file.chmod(0o600)
    return file
