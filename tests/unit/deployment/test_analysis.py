"""The analysis of a rollout: what fails, what holds, and that it goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from mlcycle_nb.deployment import analysis
from mlcycle_nb.deployment.analysis import AnalysisState, Baseline, add_pairs, add_requests, begin, judge
from mlcycle_nb.deployment.judgement import MetricVerdict
from mlcycle_nb.deployment.records import WHOLE, DeploymentStrategy, Rollout, RolloutPolicy
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.serving.gateway import AccessRow

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def rollout(strategy=DeploymentStrategy.CANARY, **policy) -> Rollout:
    return Rollout(
        id="production/digits/r2", phase="progressing", created_at=NOW, environment="production", model="digits",
        target=2, digest="sha256:x", strategy=strategy, replicas=2, policy=RolloutPolicy(**policy), actor="a", pid=1,
        base=1, phase_since=NOW, in_force_since=NOW,
    )  # fmt: skip


def row(version: int, *, status: int = 200, ms: float = 10.0, answered_by: int | None = None, **other) -> AccessRow:
    fields = {
        "time": NOW, "request_id": "r", "route": "default", "model": "digits", "version": version,
        "answered_by": version if answered_by is None else answered_by, "requested_version": None,
        "consumer": "notebook", "method": "POST", "path": "/v2/models/digits/infer", "status": status, "flags": "",
        "details": "via_upstream", "duration_ms": ms, "attempts": 1, **other,
    }  # fmt: skip
    return AccessRow(**fields)


def verdicts(state: AnalysisState, record: Rollout) -> dict[str, Outcome]:
    return {metric.name: metric.outcome for metric in judge(state, record.policy).metrics}


def feed(record: Rollout, canary, stable, *, rounds: int = 40, each: int = 25) -> AnalysisState:
    state = begin(record, "1:0", NOW)
    for _ in range(rounds):
        rows = [canary() for _ in range(each)] + [stable() for _ in range(each)]
        state = add_requests(state, record, rows, "1:1")
    return state


@pytest.fixture
def rng():
    return np.random.default_rng(11)


class TestRequests:
    """Errors and latency, from the gateway's rows."""

    def test_nothing_seen_is_inconclusive(self):
        record = rollout()
        judged = judge(begin(record, None, NOW), record.policy)

        assert judged.outcome is Outcome.INCONCLUSIVE
        assert judged.holds(500)
        assert not judged.failure

    def test_equal_versions_pass(self, rng):
        record = rollout(mirror=0)
        state = feed(record, lambda: row(2, ms=rng.lognormal(2.3, 0.3)), lambda: row(1, ms=rng.lognormal(2.3, 0.3)))

        found = verdicts(state, record)
        assert (found.pop("error rate"), found.pop("latency")) == (Outcome.PASSED, Outcome.PASSED)
        assert found == {"prediction shift": Outcome.INCONCLUSIVE, "accuracy": Outcome.INCONCLUSIVE}
        assert judge(state, record.policy).holds(WHOLE) == ""

    def test_errors_of_the_model_fail_it(self, rng):
        record = rollout()
        state = feed(record, lambda: row(2, status=500 if rng.random() < 0.1 else 200), lambda: row(1), rounds=20)

        assert verdicts(state, record)["error rate"] is Outcome.FAILED

    def test_a_canary_that_cannot_be_reached_fails_although_stable_answers_for_it(self, rng):
        record = rollout()
        state = feed(record, lambda: row(2, answered_by=1 if rng.random() < 0.2 else 2), lambda: row(1), rounds=20)

        assert verdicts(state, record)["error rate"] is Outcome.FAILED

    def test_errors_of_callers_count_for_nobody(self):
        record = rollout()
        state = feed(record, lambda: row(2, status=422), lambda: row(1))

        assert verdicts(state, record)["error rate"] is Outcome.PASSED

    def test_a_slow_canary_fails(self, rng):
        record = rollout()
        state = feed(record, lambda: row(2, ms=rng.lognormal(3.4, 0.3)), lambda: row(1, ms=rng.lognormal(3.0, 0.3)))

        assert verdicts(state, record)["latency"] is Outcome.FAILED

    def test_a_millisecond_more_is_nothing(self, rng):
        record = rollout()
        state = feed(record, lambda: row(2, ms=1.5 + rng.random()), lambda: row(1, ms=0.5 + rng.random()))

        assert verdicts(state, record)["latency"] is Outcome.PASSED

    def test_other_routes_and_models_do_not_count(self):
        record = rollout()
        rows = [row(2, route="pinned"), row(2, route="tester"), row(2, model="other"), row(2, method="GET")]
        state = add_requests(begin(record, None, NOW), record, rows, "1:9")

        assert state.step_requests == 0
        assert state.errors is not None
        assert state.errors.canary_requests == 0

    def test_each_step_counts_its_own_requests(self):
        record = rollout()
        state = add_requests(begin(record, None, NOW), record, [row(2)] * 30, "1:1")
        assert state.step_requests == 30

        import dataclasses

        later = dataclasses.replace(record, step=1, in_force_since=NOW + timedelta(seconds=5))
        assert add_requests(state, later, [row(2)] * 4, "1:2").step_requests == 4
        waiting = dataclasses.replace(record, step=1, in_force_since=None)
        assert add_requests(state, waiting, [row(2)] * 4, "1:2").step_requests == 0


def predictions(pairs: list[tuple[str, int, int, bool]]) -> pa.Table:
    """Return a prediction log of (id, version, label, mirrored)."""
    return pa.table(
        {
            "prediction_id": [pair[0] for pair in pairs],
            "row": pa.array([0] * len(pairs), pa.int32()),
            "version": pa.array([pair[1] for pair in pairs], pa.int32()),
            "label": pa.array([pair[2] for pair in pairs], pa.int64()),
            "mirrored": [pair[3] for pair in pairs],
        }
    )


class TestDisagreement:
    """Answers of both versions to the same request."""

    def test_only_pairs_count_and_each_once(self):
        table = predictions(
            [("a", 1, 3, False), ("a", 1, 3, True), ("a", 2, 3, True), ("b", 1, 4, False), ("c", 2, 5, False),
             ("c", 1, 6, True)]
        )  # fmt: skip
        assert analysis.disagreements(table, stable=1, canary=2) == (2, 1)

    def test_what_was_served_counts_and_not_its_copy(self):
        table = predictions([("a", 1, 9, True), ("a", 1, 3, False), ("a", 2, 3, True)])
        assert analysis.disagreements(table, stable=1, canary=2) == (1, 0)

    def test_values_agree_within_a_share(self):
        table = predictions([]).drop_columns(["label"])
        table = pa.table(
            {
                "prediction_id": ["a", "a", "b", "b", "c", "c"],
                "row": pa.array([0] * 6, pa.int32()),
                "version": pa.array([1, 2] * 3, pa.int32()),
                "value": [100.0, 104.0, 100.0, 106.0, 1.0, float("nan")],
            }
        )
        assert analysis.disagreements(table, stable=1, canary=2) == (3, 2)

    def test_permuted_classes_fail_fast(self):
        record = rollout(mirror=10_000)
        pairs = [(f"p{i}", v, (i + (v == 2)) % 10, v == 2) for i in range(20) for v in (1, 2)]
        state = add_pairs(begin(record, None, NOW), record, predictions(pairs), NOW)

        assert verdicts(state, record)["disagreement"] is Outcome.FAILED
        assert "disagreement 100.0% of 20 requests" in judge(state, record.policy).failure

    def test_agreement_passes_after_enough_pairs(self):
        record = rollout()
        pairs = [(f"p{i}", v, i % 10, v == 2) for i in range(150) for v in (1, 2)]
        state = add_pairs(begin(record, None, NOW), record, predictions(pairs), NOW)

        assert verdicts(state, record)["disagreement"] is Outcome.PASSED

    def test_no_predictions_are_no_agreement(self):
        record = rollout()
        state = add_pairs(begin(record, None, NOW), record, pa.table({}), NOW)

        assert verdicts(state, record)["disagreement"] is Outcome.INCONCLUSIVE


class TestBlueGreen:
    """Green is judged against what blue did before the switch."""

    def test_a_green_with_errors_fails(self):
        record = rollout(DeploymentStrategy.BLUE_GREEN)
        state = begin(record, None, NOW, Baseline(requests=500, errors=0, p95_ms=10.0))
        state = add_requests(state, record, [row(2, status=500)] * 10 + [row(2)] * 40, "1:1")

        assert verdicts(state, record)["error rate"] is Outcome.FAILED

    def test_a_slow_green_fails(self):
        record = rollout(DeploymentStrategy.BLUE_GREEN)
        state = begin(record, None, NOW, Baseline(requests=500, errors=0, p95_ms=10.0))
        state = add_requests(state, record, [row(2, ms=20.0)] * 60, "1:1")

        assert verdicts(state, record)["latency"] is Outcome.FAILED

    def test_without_a_baseline_latency_is_not_judged(self):
        record = rollout(DeploymentStrategy.BLUE_GREEN)
        state = begin(record, None, NOW, Baseline(requests=3, errors=0, p95_ms=10.0))

        assert "latency" not in verdicts(state, record)

    def test_a_baseline_is_of_stable_alone(self):
        points = [
            {"version": 1, "requests": 30, "errors": 1, "p95_ms": 8.0},
            {"version": 1, "requests": 10, "errors": 0, "p95_ms": None},
            {"version": 9, "requests": 99, "errors": 99, "p95_ms": 99.0},
        ]
        assert Baseline.of(points, 1) == Baseline(requests=40, errors=1, p95_ms=8.0)


def test_the_state_survives_the_store(context, rng):
    """Stored and read back, the tests go on as if nothing had happened."""
    record = rollout()
    state = feed(record, lambda: row(2, ms=rng.lognormal(2, 0.3)), lambda: row(1), rounds=3, each=7)
    context.store.observe(Rollout, "x", analysis=state.to_json())

    again = AnalysisState.from_json(context.store.observed(Rollout, "x")["analysis"])

    assert again == state
    rows = [row(2, status=500)] * 30 + [row(1)] * 30
    assert add_requests(again, record, rows, "1:5") == add_requests(state, record, rows, "1:5")


def test_small_shares_need_less_proof():
    """What an undecided metric could do at a small weight is small; at 100 % it has to have passed."""
    metric = MetricVerdict(name="m", outcome=Outcome.INCONCLUSIVE, reason="", enough=True, worst=3.0)
    assert metric.allows(2500)
    assert not metric.allows(5000)
    assert not metric.allows(WHOLE)
    few = MetricVerdict(name="m", outcome=Outcome.INCONCLUSIVE, reason="", enough=False, worst=0.1)
    assert not few.allows(500)
    failed = MetricVerdict(name="m", outcome=Outcome.FAILED, reason="", enough=True, worst=0.1)
    assert not failed.allows(500)


class TestTheClockIsSetBack:
    """What is read by its time begins anew; what is read by its place goes on."""

    @pytest.mark.parametrize("strategy", [DeploymentStrategy.CANARY, DeploymentStrategy.SHADOW])
    def test_compared_anew(self, strategy):
        record = rollout(strategy, mirror=5000)
        state = begin(record, "1:0", NOW + timedelta(hours=1), classes=10)
        state = replace(
            state,
            position="3:17",
            errors=state.errors.updated(canary_requests=9, canary_errors=0, baseline_requests=9, baseline_errors=0),
            disagreement=state.disagreement.updated(requests=50, events=3),
            latency=state.latency.updated(canary_ms=[1.0] * 9, baseline_ms=[1.0] * 9),
        )

        anew = analysis.compared_anew(state, record, NOW, classes=10)

        assert (anew.paired_until, anew.position, anew.errors) == (NOW, "3:17", state.errors)
        assert anew.disagreement.evidence().requests == 0
        by_time = strategy is DeploymentStrategy.SHADOW  # a canary's times are in the gateway's log
        assert anew.latency.evidence().requests == (0 if by_time else 9)
