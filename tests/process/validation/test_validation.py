"""The whole stage with real processes: worker, replica, store, verdict, and what voids it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.packages import Package, PackageStore, build_package
from mlcycle_nb.store.keys import signing_key
from mlcycle_nb.validation.data import ValidationData
from mlcycle_nb.validation.service import ModelValidator
from mlcycle_nb.workspace import Workspace

pytestmark = pytest.mark.timeout(180)

GATES = """\
gates:
  - {check: accuracy, min: 0.85}
  - {check: f1, min: 0.8}
  - {check: noise_robustness, max: 0.1}
  - {check: demographic_parity_difference, max: 0.25}
  - {check: latency_p95_ms, max: 200, requests: 120}
  - {check: package_integrity}
  - {check: package_format}
  - {check: train_overlap, max: 0}
"""


class Half:
    """A classifier in plain Python, which only the python format can carry."""

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return (np.asarray(rows)[:, 0] > 0.5).astype(np.int64)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return self.predict(rows)


def rows_of(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    rows = rng.normal(size=(n, 4)) * 0.5 + labels[:, None] * np.array([1.0, -1.0, 0.5, 0.0])
    return rows.astype(np.float32), labels


@pytest.fixture
def data() -> ValidationData:
    rows, labels = rows_of(2, 600)
    groups = np.random.default_rng(3).choice(["a", "b"], len(rows))
    return ValidationData(rows, labels, {"side": groups}, rows_of(1, 2000)[0])


@pytest.fixture
def registered() -> dict[str, SimpleNamespace]:
    return {}


@pytest.fixture
def validator(workspace: Workspace, registered: dict[str, SimpleNamespace]) -> ModelValidator:
    registry: Any = SimpleNamespace(get_version=lambda ref: registered[ref])
    return ModelValidator(workspace.context, registry)


@pytest.fixture
def package(workspace: Workspace, registered: dict[str, SimpleNamespace]) -> Package:
    rows, labels = rows_of(1, 2000)
    model = LogisticRegression().fit(rows, labels)
    store = PackageStore(workspace.context.folder("packages"))
    built = build_package(model, example=rows[:200], class_names=["no", "yes"], out=store)
    registered["toy/1"] = SimpleNamespace(name="toy", version=1, package_digest=built.digest)
    return built


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    path = tmp_path / "gates.yaml"
    path.write_text(GATES)
    return path


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


@pytest.mark.usefixtures("package")
class TestVerdicts:
    def test_a_good_version_passes_every_gate(
        self, workspace: Workspace, validator: ModelValidator, gates: Path, data: ValidationData
    ) -> None:
        report = validator.validate_model("toy/1", gates, data)

        assert report.outcome is Outcome.PASSED, repr(report)
        assert [result.outcome for result in report.results] == [Outcome.PASSED] * 8
        assert report.result("latency_p95_ms").n == 120
        assert 0 < report.result("latency_p95_ms").value < 200
        assert validator.latest_verdict("toy/1").id == report.id == "toy-1-1"
        assert validator.is_valid_for("toy/1", "production") == (True, "validation toy-1-1 passed all 8 gates")
        assert workspace.context.processes.names("validation-") == []
        assert workspace.verify_audit().intact

    def test_permuted_labels_are_refused_with_the_reason(self, validator: ModelValidator, data: ValidationData) -> None:
        wrong = ValidationData(data.features, 1 - data.labels.astype(int))

        report = validator.validate_model("toy/1", {"gates": [{"check": "accuracy", "min": 0.9}]}, wrong)
        valid, why = validator.is_valid_for("toy/1", "production")

        assert report.outcome is Outcome.FAILED
        assert (valid, why) == (False, "validation toy-1-1 is failed: accuracy")

    def test_the_same_seed_gives_the_same_verdict(self, validator: ModelValidator, data: ValidationData) -> None:
        rules = {"gates": [{"check": "f1", "min": 0.8}, {"check": "noise_robustness", "max": 0.1}]}
        first = validator.validate_model("toy/1", rules, data, seed=5)
        second = validator.validate_model("toy/1", rules, data, seed=5)

        assert [(r.value, r.low, r.high) for r in first.results] == [(r.value, r.low, r.high) for r in second.results]
        assert second.id == "toy-1-2"

    def test_without_a_verdict_nothing_opens(self, validator: ModelValidator) -> None:
        assert validator.latest_verdict("toy/1") is None
        assert validator.is_valid_for("toy/1", "production")[0] is False

    def test_bad_gates_change_nothing(
        self, workspace: Workspace, validator: ModelValidator, data: ValidationData
    ) -> None:
        with pytest.raises(InvalidInput, match="did you mean 'accuracy'"):
            validator.validate_model("toy/1", {"gates": [{"check": "acuracy", "min": 0.9}]}, data)

        assert validator.validations() == []
        assert not (workspace.home / "data").exists()

    def test_environments_limit_where_a_verdict_counts(self, validator: ModelValidator, data: ValidationData) -> None:
        validator.validate_model(
            "toy/1", {"gates": [{"check": "accuracy", "min": 0.8}], "environments": ["staging"]}, data
        )

        assert validator.is_valid_for("toy/1", "staging")[0] is True
        assert validator.is_valid_for("toy/1", "production")[0] is False


class TestVoid:
    @pytest.fixture
    def passed(self, package: Package, validator: ModelValidator, tmp_path: Path, data: ValidationData) -> Path:
        path = tmp_path / "gates.yaml"
        path.write_text("gates:\n  - {check: accuracy, min: 0.85}\n")
        assert validator.validate_model("toy/1", path, data).passed
        assert validator.is_valid_for("toy/1", "production")[0]
        return path

    def test_another_package(
        self, passed: Path, validator: ModelValidator, registered: dict[str, SimpleNamespace]
    ) -> None:
        registered["toy/1"].package_digest = "sha256:" + "0" * 64

        assert "another" in validator.is_valid_for("toy/1", "production")[1]

    def test_one_changed_byte_of_the_package(self, passed: Path, validator: ModelValidator, package: Package) -> None:
        flip(package.path / "model.onnx")

        valid, why = validator.is_valid_for("toy/1", "production")

        assert (valid, "the package has changed" in why) == (False, True)

    def test_one_changed_byte_of_the_data(self, passed: Path, validator: ModelValidator, workspace: Workspace) -> None:
        flip(next((workspace.home / "data").glob("*.npz")))

        valid, why = validator.is_valid_for("toy/1", "production")

        assert (valid, "the validation data has changed" in why) == (False, True)

    def test_one_changed_byte_of_the_gates(self, passed: Path, validator: ModelValidator) -> None:
        passed.write_text(passed.read_text().replace("0.85", "0.86"))

        assert "the gates file has changed" in validator.is_valid_for("toy/1", "production")[1]

    def test_a_gates_file_that_is_gone(self, passed: Path, validator: ModelValidator) -> None:
        passed.unlink()

        assert "cannot be read" in validator.is_valid_for("toy/1", "production")[1]

    def test_other_code_of_the_checks(
        self, passed: Path, validator: ModelValidator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mlcycle_nb.validation.evaluate.CODE", ("mlcycle_nb.validation.decide",))

        assert "the code of the checks has changed" in validator.is_valid_for("toy/1", "production")[1]


class TestFailures:
    def test_a_damaged_package_passes_nothing(
        self, package: Package, validator: ModelValidator, data: ValidationData, gates: Path
    ) -> None:
        flip(package.path / "model.onnx")

        report = validator.validate_model("toy/1", gates, data)

        assert report.outcome is Outcome.ERROR
        assert report.result("package_integrity").outcome is Outcome.FAILED
        assert report.result("accuracy").outcome is Outcome.ERROR

    def test_a_killed_worker_leaves_an_error_verdict(
        self, package: Package, validator: ModelValidator, workspace: Workspace, data: ValidationData
    ) -> None:
        rules = {"gates": [{"check": "latency_p95_ms", "max": 100, "requests": 100_000}]}
        handle = validator.start_validation("toy/1", rules, data)
        wait_until(lambda: bool(workspace.context.processes.names("validation-toy-1-1-replica")))

        os.kill(workspace.context.processes.get("validation-toy-1-1").pid, signal.SIGKILL)
        record = handle.wait(60)

        assert record.outcome is Outcome.ERROR
        assert "ended before it had a verdict" in record.problem
        assert validator.is_valid_for("toy/1", "production")[0] is False

    def test_a_validation_is_found_again_by_its_id(
        self, package: Package, validator: ModelValidator, data: ValidationData
    ) -> None:
        started = validator.start_validation("toy/1", {"gates": [{"check": "accuracy", "min": 0.8}]}, data)

        assert validator.attach(started.id).wait(60).passed

    def test_a_python_package_is_judged_outside_this_process(
        self,
        validator: ModelValidator,
        workspace: Workspace,
        registered: dict[str, SimpleNamespace],
        data: ValidationData,
        gates: Path,
    ) -> None:
        import cloudpickle

        cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["Half"]))
        store = PackageStore(workspace.context.folder("packages"))
        key = signing_key(workspace.context.workspace_id)
        built = build_package(
            Half(), example=rows_of(1, 200)[0], class_names=["no", "yes"], format="python", out=store, signer=key
        )
        registered["half/1"] = SimpleNamespace(name="half", version=1, package_digest=built.digest)

        report = validator.validate_model("half/1", gates, data)

        assert report.result("accuracy").value > 0.7, repr(report)
        assert report.result("latency_p95_ms").value > 0
        assert report.result("package_format").outcome is Outcome.FAILED
        assert "runs code" in report.result("package_format").reason
        assert report.outcome is Outcome.FAILED
