"""Each check against scikit-learn, Fairlearn or a worked example, and each one failing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference
from sklearn import metrics
from sklearn.datasets import load_iris
from sklearn.tree import DecisionTreeClassifier

from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.packages import Package, PackageStore, build_package
from mlcycle_nb.validation.checks._confusion import f1_by_class, precision_by_class, recall_by_class
from mlcycle_nb.validation.checks.calibration_error import expected_error
from mlcycle_nb.validation.contract import Check, checks
from mlcycle_nb.validation.data import ValidationData
from mlcycle_nb.validation.decide import decide
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.records import GateResult
from mlcycle_nb.validation.subject import Subject

Make = Callable[..., Any]

BOUNDED = {
    "accuracy": ({"min": 0.8}, {"min": 0.999}),
    "precision": ({"min": 0.8}, {"min": 0.999}),
    "recall": ({"min": 0.8}, {"min": 0.999}),
    "f1": ({"min": 0.8}, {"min": 0.999}),
    "roc_auc": ({"min": 0.8}, {"min": 0.9999}),
    "log_loss": ({"max": 1.0}, {"max": 0.001}),
    "calibration_error": ({"max": 0.2}, {"max": 0.0001}),
    "latency_p95_ms": ({"max": 50}, {"max": 0.5}),
    "demographic_parity_difference": ({"max": 0.2}, {"max": 0.0001}),
    "equalized_odds_difference": ({"max": 0.3}, {"max": 0.0001}),
    "noise_robustness": ({"max": 0.2, "sigma": 0.1}, {"max": 0.01, "sigma": 5.0}),
    "train_overlap": ({"max": 0.0}, {"max": 0.0}),
    "package_integrity": ({}, {}),
    "package_format": ({}, {"allow": ["safetensors"]}),
}
"""For each check the gate that the good model passes, and one that it (or the spoiled subject below) fails."""


def judge(subject: Subject, gate: Gate) -> GateResult:
    check: Check = checks.load(gate.check)
    return decide(gate, check, check.measure(subject, gate))


def spoiled(name: str, subject: Subject, data: ValidationData, make_subject: Make) -> Subject:
    """A subject in which the flaw that the check looks for is planted."""
    rows, labels = data.features, data.labels
    if name == "train_overlap":
        overlapping = ValidationData(rows, labels, train_features=np.vstack([data.train_features, rows[:7]]))
        return make_subject(subject.package, overlapping)
    if name == "package_integrity":
        return make_subject(subject.package, data, registered_digest="sha256:" + "0" * 64)
    if name in ("demographic_parity_difference", "equalized_odds_difference"):
        predicted = subject.predicted
        shifted = np.where(np.random.default_rng(0).random(len(rows)) < 0.8, predicted, 1 - predicted).astype(str)
        return make_subject(subject.package, ValidationData(rows, labels, {"side": shifted}))
    return subject


class TestContract:
    """What every check must keep; a new file in checks/ is under test the moment it exists."""

    @pytest.mark.parametrize("name", checks.names())
    def test_it_has_a_passing_and_a_failing_case(
        self, name: str, package: Package, good_data: ValidationData, make_subject: Make, make_gate: Make
    ) -> None:
        assert name in BOUNDED, f"add a passing and a failing case of {name} to this table"
        good, bad = BOUNDED[name]
        subject = make_subject(package, good_data)

        passed = judge(subject, make_gate(name, **good))
        failed = judge(spoiled(name, subject, good_data, make_subject), make_gate(name, **bad))

        assert passed.outcome is Outcome.PASSED, passed.reason
        assert passed.next_step == ""
        assert failed.outcome is Outcome.FAILED, failed.reason

    @pytest.mark.parametrize("name", checks.names())
    def test_it_gives_the_same_answer_twice(
        self, name: str, package: Package, good_data: ValidationData, make_subject: Make, make_gate: Make
    ) -> None:
        gate = make_gate(name, **BOUNDED[name][0])

        assert judge(make_subject(package, good_data), gate) == judge(make_subject(package, good_data), gate)

    @pytest.mark.parametrize("name", [name for name in checks.names() if checks.load(name).bounds is not None])
    def test_too_few_rows_never_pass(
        self, name: str, package: Package, labelled_rows: Make, make_subject: Make, make_gate: Make
    ) -> None:
        rows, labels = labelled_rows(40, seed=5)
        train, _ = labelled_rows(50, seed=6)
        few = ValidationData(rows, labels, {"side": np.array(["a", "b"] * 20)}, train)
        keys = BOUNDED[name][0] | ({"requests": 40} if name == "latency_p95_ms" else {})

        result = judge(make_subject(package, few), make_gate(name, **keys))

        assert result.outcome is Outcome.INCONCLUSIVE, result.reason
        assert result.next_step

    @pytest.mark.parametrize("name", checks.names())
    def test_it_describes_itself(self, name: str) -> None:
        check: Check = checks.load(name)

        assert check.name == name
        assert check.family in ("performance", "fairness", "robustness", "security", "compliance", "data")
        assert (check.better == "none") == (check.bounds is None)
        assert check.summary


class TestPerformance:
    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [(precision_by_class, "precision_score"), (recall_by_class, "recall_score"), (f1_by_class, "f1_score")],
    )
    def test_scores_by_class_are_scikit_learns(self, ours: Any, theirs: str) -> None:
        rng = np.random.default_rng(4)
        truth, answer = rng.integers(0, 4, 300), rng.integers(0, 3, 300)
        table = metrics.confusion_matrix(truth, answer, labels=range(4))
        expected = getattr(metrics, theirs)(truth, answer, average=None, labels=range(4), zero_division=0)

        np.testing.assert_allclose(ours(table[None])[0], expected)

    @pytest.mark.parametrize("name", ["accuracy", "precision", "recall", "f1", "roc_auc", "log_loss"])
    def test_binary_values_are_scikit_learns(
        self, name: str, package: Package, good_data: ValidationData, make_subject: Make, make_gate: Make
    ) -> None:
        subject = make_subject(package, good_data)
        truth, answer, scores = subject.labels, subject.predicted, subject.probabilities
        expected = {
            "accuracy": lambda: metrics.accuracy_score(truth, answer),
            "precision": lambda: metrics.precision_score(truth, answer),
            "recall": lambda: metrics.recall_score(truth, answer),
            "f1": lambda: metrics.f1_score(truth, answer),
            "roc_auc": lambda: metrics.roc_auc_score(truth, scores[:, 1]),
            "log_loss": lambda: metrics.log_loss(truth, scores),
        }[name]()

        result = judge(subject, make_gate(name, **BOUNDED[name][0]))

        assert result.value == pytest.approx(expected, abs=1e-6)
        assert result.low <= expected <= result.high

    def test_several_classes_are_averaged(self, store: PackageStore, make_subject: Make, make_gate: Make) -> None:
        rows, labels = load_iris(return_X_y=True)
        tree = DecisionTreeClassifier(max_depth=2, random_state=0).fit(rows, labels)
        subject = make_subject(build_package(tree, example=rows, out=store), ValidationData(rows, labels))

        f1 = judge(subject, make_gate("f1", min=0.5))
        one = judge(subject, make_gate("recall", min=0.5, positive="1"))
        auc = judge(subject, make_gate("roc_auc", min=0.5))

        assert f1.value == pytest.approx(metrics.f1_score(labels, subject.predicted, average="macro"))
        assert one.value == pytest.approx(metrics.recall_score(labels, subject.predicted, average=None)[1])
        expected = metrics.roc_auc_score(labels, subject.probabilities, multi_class="ovr")
        assert auc.value == pytest.approx(expected, abs=1e-6)

    def test_all_right_on_few_rows_is_not_certainty(
        self, package: Package, labelled_rows: Make, make_subject: Make, make_gate: Make
    ) -> None:
        rows, labels = labelled_rows(120, seed=9, noise=0.05)
        subject = make_subject(package, ValidationData(rows, labels))

        for name in ("accuracy", "precision", "recall", "f1"):
            result = judge(subject, make_gate(name, min=0.99))

            assert result.value == 1.0
            assert result.outcome is Outcome.INCONCLUSIVE

    def test_near_the_bound_it_says_how_many_rows_would_decide(
        self, package: Package, good_data: ValidationData, make_subject: Make, make_gate: Make
    ) -> None:
        subject = make_subject(package, good_data)
        accuracy = float((subject.predicted == subject.labels).mean())

        result = judge(subject, make_gate("accuracy", min=round(accuracy - 0.005, 4)))

        assert result.outcome is Outcome.INCONCLUSIVE
        assert "rows would decide it" in result.reason

    def test_a_class_without_rows_is_inconclusive(
        self, store: PackageStore, make_subject: Make, make_gate: Make
    ) -> None:
        rows, labels = load_iris(return_X_y=True)
        tree = DecisionTreeClassifier(max_depth=2, random_state=0).fit(rows, labels)
        subject = make_subject(build_package(tree, example=rows, out=store), ValidationData(rows[:100], labels[:100]))

        result = judge(subject, make_gate("f1", min=0.1))

        assert result.outcome is Outcome.INCONCLUSIVE
        assert "no row of class" in result.reason

    def test_calibration_error_of_a_worked_example(self) -> None:
        """Ten answers at 0.95 with 5 right, ten at 0.55 with 5 right: (10 * 0.45 + 10 * 0.05) / 20 = 0.25."""
        stated = np.array([0.95] * 10 + [0.55] * 10)
        seen = np.array(([1.0] * 5 + [0.0] * 5) * 2)

        assert expected_error(stated, seen, 10) == pytest.approx(0.25)

    def test_probabilities_that_are_not_numbers_never_pass(
        self, package: Package, good_data: ValidationData, make_subject: Make, make_gate: Make
    ) -> None:
        class Broken:
            thread_bound = False

            def predict(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
                n = len(inputs["input"])
                return {"label": np.zeros(n, dtype=np.int64), "probabilities": np.full((n, 2), np.nan)}

        subject = make_subject(package, good_data, open_runtime=Broken)

        for name in ("roc_auc", "log_loss", "calibration_error"):
            assert judge(subject, make_gate(name, **BOUNDED[name][0])).outcome is Outcome.INCONCLUSIVE


class TestFairness:
    @pytest.mark.parametrize(
        ("name", "oracle"),
        [
            ("demographic_parity_difference", demographic_parity_difference),
            ("equalized_odds_difference", equalized_odds_difference),
        ],
    )
    def test_the_value_is_fairlearns(
        self, name: str, oracle: Any, package: Package, good_data: ValidationData, make_subject: Make, make_gate: Make
    ) -> None:
        subject = make_subject(package, good_data)
        expected = oracle(subject.labels, subject.predicted, sensitive_features=good_data.groups["side"])

        result = judge(subject, make_gate(name, max=0.5))

        assert result.value == pytest.approx(expected)
        assert sum(group["n"] for group in result.detail["groups"].values()) == len(good_data)

    def test_parity_of_a_worked_example(
        self, package: Package, labelled_rows: Make, make_subject: Make, make_gate: Make
    ) -> None:
        """Group a holds the predicted positives and group b the negatives: the difference is 1."""
        rows, labels = labelled_rows(400, seed=12, noise=0.01)
        subject = make_subject(package, ValidationData(rows, labels, {"g": np.where(labels == 1, "a", "b")}))

        result = judge(subject, make_gate("demographic_parity_difference", max=0.1))

        assert (result.value, result.outcome) == (1.0, Outcome.FAILED)
        assert "b and a of g" in result.next_step

    @pytest.mark.parametrize(
        ("groups", "problem"),
        [
            (None, "has no groups"),
            (["only"] * 200, "one group only"),
            (["tiny"] * 3 + ["large"] * 197, "fewer than 30"),
        ],
    )
    def test_groups_that_show_nothing_fail_closed(
        self,
        groups: list[str] | None,
        problem: str,
        package: Package,
        labelled_rows: Make,
        make_subject: Make,
        make_gate: Make,
    ) -> None:
        rows, labels = labelled_rows(200, seed=13)
        data = ValidationData(rows, labels, None if groups is None else {"g": groups})

        result = judge(make_subject(package, data), make_gate("demographic_parity_difference", max=0.9))

        assert result.outcome is Outcome.INCONCLUSIVE
        assert "insufficient" in result.reason
        assert problem in result.reason


class TestRobustness:
    def test_no_noise_to_speak_of_costs_nothing_but_is_not_certain(
        self, package: Package, good_data: ValidationData, make_subject: Make, make_gate: Make
    ) -> None:
        result = judge(make_subject(package, good_data), make_gate("noise_robustness", max=0.2, sigma=0.00001))

        assert result.value == 0
        assert result.high > 0.003

    def test_the_drop_is_of_accuracy(
        self, package: Package, good_data: ValidationData, make_subject: Make, make_gate: Make
    ) -> None:
        result = judge(make_subject(package, good_data), make_gate("noise_robustness", max=0.2, sigma=2.0))

        drop = result.detail["accuracy"] - result.detail["accuracy_with_noise"]
        assert result.value == pytest.approx(drop, abs=1e-5)
        assert drop > 0.05


class TestSecurity:
    def test_one_changed_byte_is_found(
        self, labelled_rows: Make, tmp_path: Any, good_data: ValidationData, make_subject: Make, make_gate: Make
    ) -> None:
        rows, labels = labelled_rows(300, seed=1)
        from sklearn.linear_model import LogisticRegression

        package = build_package(LogisticRegression().fit(rows, labels), example=rows, out=PackageStore(tmp_path / "p"))
        file = package.path / "reference.parquet"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

        result = judge(make_subject(package, good_data), make_gate("package_integrity"))

        assert result.outcome is Outcome.FAILED
        assert "reference.parquet" in result.reason

    def test_a_format_that_is_not_listed_is_named(
        self, package: Package, good_data: ValidationData, make_subject: Make, make_gate: Make
    ) -> None:
        result = judge(make_subject(package, good_data), make_gate("package_format", allow=["safetensors"]))

        assert "the format is onnx; allowed: safetensors" in result.reason


class TestOverlap:
    def test_overlapping_rows_are_counted(
        self, package: Package, good_data: ValidationData, make_subject: Make, make_gate: Make
    ) -> None:
        spoilt = spoiled("train_overlap", make_subject(package, good_data), good_data, make_subject)

        result = judge(spoilt, make_gate("train_overlap", max=0))

        assert result.detail["overlapping_rows"] == 7
        assert "remove the 7 overlapping rows, the first is row 0" in result.next_step

    def test_without_training_rows_nothing_is_shown(
        self, package: Package, labelled_rows: Make, make_subject: Make, make_gate: Make
    ) -> None:
        rows, labels = labelled_rows(300)

        result = judge(make_subject(package, ValidationData(rows, labels)), make_gate("train_overlap", max=0))

        assert result.outcome is Outcome.INCONCLUSIVE
