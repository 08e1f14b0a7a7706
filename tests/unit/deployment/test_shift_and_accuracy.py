"""Shift of answers, accuracy by late labels, and which metrics decide."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mlcycle_nb.deployment.accuracy import wrong_answers
from mlcycle_nb.deployment.analysis import AnalysisState, add_labels, add_pairs, begin, judge
from mlcycle_nb.deployment.judgement import Judgement, MetricVerdict
from mlcycle_nb.deployment.policy import make_policy
from mlcycle_nb.deployment.records import WHOLE, DeploymentStrategy
from mlcycle_nb.deployment.shift import KINDS_MOST, ShiftTest, answers_of
from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.serving.labels import LabelStore, from_mapping

from .test_analysis import NOW, rollout

CANARY, STABLE = 2, 1


def table(
    answers: dict[int, list[float]], *, mirrored: bool = False, column: str = "label", first: int = 0
) -> pa.Table:
    """Return a prediction log: one request an answer."""
    rows = [
        {
            "prediction_id": f"p{version}-{first + number}",
            "row": 0,
            "version": version,
            "mirrored": mirrored,
            column: one,
        }
        for version, given in answers.items()
        for number, one in enumerate(given)
    ]
    return pa.Table.from_pylist(rows)


def run(test: ShiftTest, canary, stable, *, rounds: int, each: int, ratio: int = 1) -> ShiftTest:
    for _ in range(rounds):
        test = test.updated(canary=canary(each), stable=stable(each * ratio))
    return test


@pytest.fixture
def rng():
    return np.random.default_rng(5)


class TestShift:
    """Level, power, and what it says."""

    def test_equal_versions_are_seldom_failed(self, rng):
        """At most alpha = .05 over the whole rollout, looking after every 20 answers."""
        failed = 0
        for _ in range(60):
            test = ShiftTest.start(bound=0.01, alpha=0.05, minimum_requests=50, classes=10)
            draw = lambda n: rng.integers(0, 10, n)  # noqa: E731
            for _ in range(40):
                test = test.updated(canary=draw(20), stable=draw(20))
                if test.evidence().verdict is Outcome.FAILED:
                    failed += 1
                    break

        assert failed <= 6  # of 60 at .05: more than 6 in 1 of 40 runs even at the bound

    def test_one_answer_for_everything_is_found_soon(self, rng):
        test = ShiftTest.start(bound=0.15, alpha=0.0125, minimum_requests=50, classes=10)
        test = run(test, lambda n: np.full(n, 3.0), lambda n: rng.integers(0, 10, n), rounds=3, each=10, ratio=9)
        found = test.evidence()

        assert found.verdict is Outcome.FAILED
        assert "class 3 is 100.0% of 30 answers against" in found.reason
        assert found.estimate > 0.8

    def test_a_small_difference_is_no_shift_however_many_answers(self, rng):
        def canary(n):
            return rng.choice(2, n, p=[0.9, 0.1])

        test = ShiftTest.start(bound=0.15, alpha=0.05, minimum_requests=50, classes=2)
        test = run(test, canary, lambda n: rng.choice(2, n, p=[0.96, 0.04]), rounds=20, each=500)

        assert any(one.capital.reached for one in test.tests)  # significant, and still no reason to go back
        assert test.evidence().verdict is Outcome.PASSED

    def test_values_are_compared_by_ranges_of_stables_own(self, rng):
        healthy = ShiftTest.start(bound=0.15, alpha=0.05, minimum_requests=50, classes=0)
        shifted = run(healthy, lambda n: rng.normal(2, 1, n), lambda n: rng.normal(0, 1, n), rounds=30, each=20)
        healthy = run(healthy, lambda n: rng.normal(0, 1, n), lambda n: rng.normal(0, 1, n), rounds=100, each=50)

        assert shifted.evidence().verdict is Outcome.FAILED
        assert "a value over" in shifted.evidence().reason
        assert healthy.evidence().verdict is Outcome.PASSED

    def test_answers_that_are_not_finite_belong_to_no_kind(self):
        test = ShiftTest.start(bound=0.15, alpha=0.05, minimum_requests=1, classes=3)
        test = test.updated(canary=[float("nan")] * 10, stable=[0.0] * 10)

        assert sum(one.canary_errors for one in test.tests) == 0
        assert test.tests[0].canary_requests == 10

    def test_more_classes_than_kinds_share_one(self):
        test = ShiftTest.start(bound=0.15, alpha=0.05, minimum_requests=1, classes=1000)

        assert test.updated(canary=[999.0] * 10, stable=[1.0] * 10).tests[999 % KINDS_MOST].canary_errors == 10
        with pytest.raises(InvalidInput, match="fewer than no classes"):
            ShiftTest.start(bound=0.15, alpha=0.05, minimum_requests=1, classes=-1)

    def test_only_the_first_row_of_a_served_request_counts(self):
        rows = [
            {"prediction_id": "a", "row": 0, "version": 2, "mirrored": False, "label": 1},
            {"prediction_id": "a", "row": 1, "version": 2, "mirrored": False, "label": 2},
            {"prediction_id": "b", "row": 0, "version": 2, "mirrored": True, "label": 3},
            {"prediction_id": "c", "row": 0, "version": 1, "mirrored": False, "label": 4},
            {"prediction_id": "d", "row": 0, "version": 2, "mirrored": False, "label": None},
        ]
        found = answers_of(pa.Table.from_pylist(rows), 2)

        assert found[0] == 1.0
        assert np.isnan(found[1])
        assert len(found) == 2
        assert answers_of(pa.table({}), 2) == []

    def test_it_sends_a_canary_back_and_survives_storing(self, rng):
        record = rollout(mirror=0)
        state = begin(record, None, NOW, classes=10)
        for number in range(8):
            given = {CANARY: [7] * 20, STABLE: rng.integers(0, 10, 100).tolist()}
            state = add_pairs(state, record, table(given, first=100 * number), NOW + timedelta(seconds=number))
            state = AnalysisState.from_json(state.to_json())

        assert "prediction shift: class 7" in judge(state, record.policy).failure

    def test_blue_green_has_nobody_to_compare_with(self):
        record = rollout(DeploymentStrategy.BLUE_GREEN)

        assert begin(record, None, NOW, classes=10).shift is None


class TestAccuracy:
    """Wrong answers among those whose labels have arrived."""

    def test_only_served_answers_with_a_label_count(self):
        log = pa.concat_tables([table({1: [0, 1], 2: [0, 1, 1]}), table({2: [0]}, mirrored=True, first=50)])
        labels = {"p1-0": "no", "p1-1": "no", "p2-0": "yes", "p2-1": "yes", "p2-50": "yes", "p9": "no"}
        stored = pa.Table.from_pylist([{"prediction_id": k, "row": 0, "truth": v} for k, v in labels.items()])

        assert wrong_answers(log, stored, ("no", "yes"), (1, 2)) == {1: (2, 1), 2: (2, 1)}

    def test_values_are_wrong_beyond_a_tenth(self):
        log = table({1: [100.0, 100.0], 2: [float("nan")]}, column="value")
        stored = pa.Table.from_pylist(
            [{"prediction_id": key, "row": 0, "truth": truth} for key, truth in
             (("p1-0", "95"), ("p1-1", "80"), ("p2-0", "1"))]
        )  # fmt: skip

        assert wrong_answers(log, stored, (), (1, 2)) == {1: (2, 1), 2: (1, 1)}

    def test_a_label_that_is_none_counts_for_nobody(self):
        stored = pa.Table.from_pylist([{"prediction_id": "p1-0", "row": 0, "truth": "perhaps"}])

        assert wrong_answers(table({1: [0]}), stored, ("no", "yes"), (1, 2)) == {1: (0, 0), 2: (0, 0)}

    def test_a_version_that_is_often_wrong_goes_back(self):
        record = rollout(mirror=0)
        state = begin(record, None, NOW, classes=2, labels_until="0")
        log = table({1: [0] * 60, 2: [0] * 30 + [1] * 30})
        keys = [f"p{version}-{number}" for version in (1, 2) for number in range(60)]
        stored = pa.Table.from_pylist([{"prediction_id": key, "row": 0, "truth": "0"} for key in keys])

        state = add_labels(state, record, log, stored, (), "7")

        assert state.labels_until == "7"
        assert judge(state, record.policy).failure.startswith("accuracy: wrong answers 50.00% of 60")

    def test_without_labels_it_holds_nobody_back(self):
        record = rollout(mirror=0)
        [metric] = [m for m in judge(begin(record, None, NOW), record.policy).metrics if m.name == "accuracy"]

        assert metric.reason == "accuracy: no label has arrived"
        assert metric.allows(WHOLE)

    def test_files_of_labels_are_read_once_and_not_too_early(self, tmp_path: Path):
        store = LabelStore(tmp_path, "production", "digits")
        for number in range(3):
            store.add(from_mapping({f"p{number}": number}), NOW)
        names = store.names()
        early = datetime(2026, 1, 1, tzinfo=UTC)
        folder = tmp_path / "production" / "digits"
        for number, name in enumerate(names):
            moment = (early + timedelta(seconds=number)).timestamp()
            os.utime(folder / name, (moment, moment))

        assert store.names(after=names[0]) == names[1:]
        assert store.names(until=early + timedelta(seconds=1)) == names[:1]
        found = store.all(after=names[0], until=names[1])
        assert found is not None
        assert found["prediction_id"].to_pylist() == ["p1"]


class TestModes:
    """Required, optional, watched."""

    def metric(self, outcome: Outcome, mode: str) -> MetricVerdict:
        return MetricVerdict(name="latency", outcome=outcome, reason="slow", mode=mode, requests=500, enough=True)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("mode", "outcome", "fails", "holds"),
        [
            ("required", Outcome.FAILED, True, True),
            ("required", Outcome.INCONCLUSIVE, False, True),
            ("required", Outcome.PASSED, False, False),
            ("optional", Outcome.FAILED, True, True),
            ("optional", Outcome.INCONCLUSIVE, False, False),
            ("watched", Outcome.FAILED, False, False),
            ("watched", Outcome.ERROR, False, False),
        ],
    )
    def test_who_decides(self, mode, outcome, fails, holds):
        good = MetricVerdict(name="error rate", outcome=Outcome.PASSED, reason="fine")
        judgement = Judgement(metrics=(good, self.metric(outcome, mode)))

        assert bool(judgement.failure) is fails
        assert bool(judgement.holds(WHOLE)) is holds

    def test_options_set_them(self):
        policy = make_policy(DeploymentStrategy.CANARY, require="prediction shift", watch="latency,disagreement")

        assert policy.optional == ("accuracy",)
        assert policy.watched == ("latency", "disagreement")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"watch": "latancy"}, "did you mean 'latency'"),
            ({"watch": "latency", "optional": "latency"}, "not two of these"),
            ({"watch": "error-rate,latency,disagreement"}, "at least one metric must be required"),
            ({"max_shift": 1.5}, "--max-shift must be between 0 and 1"),
        ],
    )
    def test_what_cannot_be_meant(self, options, words):
        with pytest.raises(InvalidInput, match=words):
            make_policy(DeploymentStrategy.CANARY, **options)

    def test_what_is_watched_takes_no_share_of_the_error(self):
        all_decide = begin(rollout(mirror=0), None, NOW, classes=2)
        watched = rollout(mirror=0)
        watched = replace(watched, policy=replace(watched.policy, watched=("accuracy", "prediction-shift")))

        assert all_decide.errors is not None
        assert all_decide.errors.alpha == pytest.approx(0.05 / 4)
        alone = begin(watched, None, NOW, classes=2).errors
        assert alone is not None
        assert alone.alpha == pytest.approx(0.05 / 2)
