"""A development service whose MLflow database is a copy of one made once: making it takes seconds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.development.service import ModelDevelopmentManager
from mlcycle_nb.development.tracking import Tracking


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("mlflow")
    Tracking(home).experiments()
    return home / "mlflow.db"


@pytest.fixture
def development(context: Context, mlflow_database: Path) -> ModelDevelopmentManager:
    shutil.copy(mlflow_database, context.home / "mlflow.db")
    return ModelDevelopmentManager(context)


@pytest.fixture
def package(context: Context) -> Any:
    """A small classifier in the workspace's package store."""
    return make_package(context)


def make_package(context: Context, scale: float = 1.0) -> Any:
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    from mlcycle_nb.packages import PackageStore, build_package

    rows = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    labels = (rows[:, 0] * scale + rows[:, 1] > 0).astype(np.int64)
    model = LogisticRegression().fit(rows, labels)
    store = PackageStore(context.folder("packages"))
    return build_package(model, example=rows[:20], task="classification", out=store)
