"""A real small package, and subjects made of it, for the validation checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mlcycle_nb.packages import Package, PackageStore, build_package, load_runtime
from mlcycle_nb.validation.data import ValidationData
from mlcycle_nb.validation.gates import Gate, load_gates
from mlcycle_nb.validation.subject import Subject

Rows = tuple[np.ndarray, np.ndarray]


def _rows(n: int = 600, seed: int = 0, noise: float = 0.5) -> Rows:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    rows = rng.normal(size=(n, 4)) * noise + labels[:, None] * np.array([1.0, -1.0, 0.5, 0.0])
    return rows.astype(np.float32), labels


def _subject(package: Package, data: ValidationData, **changes: Any) -> Subject:
    runtime = load_runtime(package)
    subject = Subject(
        package=package,
        registered_digest=package.digest,
        data=data,
        open_runtime=lambda: runtime,
        time_requests=lambda rows, count: [1.0 + (index % 10) / 100 for index in range(count)],
        verify_package=package.check_files,
    )
    return replace(subject, **changes)


def _gate(check: str, **keys: Any) -> Gate:
    return load_gates({"gates": [{"check": check, **keys}]}).gates[0]


@pytest.fixture
def labelled_rows() -> Callable[..., Rows]:
    """Rows of two overlapping classes in four dimensions: ``(n, seed, noise)``."""
    return _rows


@pytest.fixture
def make_subject() -> Callable[..., Subject]:
    """Subject of a package and data; fields can be replaced."""
    return _subject


@pytest.fixture
def make_gate() -> Callable[..., Gate]:
    """Gate by the keys of a gates file."""
    return _gate


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> PackageStore:
    return PackageStore(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="session")
def package(store: PackageStore) -> Package:
    """A logistic regression of the rows above."""
    rows, labels = _rows(2000, seed=1)
    model = LogisticRegression().fit(rows, labels)
    return build_package(model, example=rows[:200], class_names=["no", "yes"], out=store)


@pytest.fixture
def good_data() -> ValidationData:
    """Rows with two groups that have nothing to do with the answers."""
    rows, labels = _rows(600, seed=2)
    groups = np.random.default_rng(3).choice(["a", "b"], len(rows))
    train, _ = _rows(2000, seed=1)
    return ValidationData(rows, labels, {"side": groups}, train)


@pytest.fixture
def versions() -> SimpleNamespace:
    """A registry in memory with the one method that validation asks; fill ``known``."""
    known: dict[str, SimpleNamespace] = {}
    return SimpleNamespace(known=known, get_version=lambda ref: known[ref])
