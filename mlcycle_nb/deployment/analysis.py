"""Judges a rollout from what was logged: errors, latency, disagreement with stable, shift of answers, accuracy.

The tests are sequential: they may be looked at after every request and still roll a healthy canary back with
probability at most ``alpha`` over the whole rollout, all metrics together. Their state is plain JSON, stored with the
log positions it stands for, so that the next supervisor goes on where this one stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import cattrs

from mlcycle_nb.deployment.accuracy import wrong_answers
from mlcycle_nb.deployment.disagreements import Disagreement, differ, pair, worst
from mlcycle_nb.deployment.judgement import Judgement, MetricVerdict
from mlcycle_nb.deployment.records import DeploymentStrategy, Rollout, RolloutPolicy
from mlcycle_nb.deployment.shift import ShiftTest, answers_of
from mlcycle_nb.deployment.traffic import charged, failed
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.serving.gateway import AccessRow
from mlcycle_nb.stats.sequential import BoundedRateTest, ErrorRateTest, Evidence, LatencyTest
from mlcycle_nb.store.record import format_time, parse_time

if TYPE_CHECKING:
    import pyarrow as pa

SLOW_SHARE = 0.20
"""After a blue-green switch at most this share of answers may be slower than nearly all of blue's were."""
BASELINE_REQUESTS = 20
PAIR_LAG = timedelta(seconds=2)
"""Replicas write their predictions at least every half second; after this both sides of a pair are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisState:
    """Everything the analysis knows; goes to the store and comes back unchanged."""

    position: str | None = None  # in the gateway's access log
    paired_until: datetime | None = None  # in the prediction log
    step: str = ""  # which step the requests below belong to
    step_requests: int = 0
    errors: ErrorRateTest | None = None
    latency: LatencyTest | None = None
    error_bound: BoundedRateTest | None = None
    slow_bound: BoundedRateTest | None = None
    slow_over_ms: float | None = None
    disagreement: BoundedRateTest | None = None
    shift: ShiftTest | None = None
    accuracy: ErrorRateTest | None = None
    labels_until: str = ""  # file of labels that was counted last
    copies: tuple[int, int] | None = None  # a shadow's: copied requests and failures that its replicas have told of
    worst: tuple[Disagreement, ...] = ()  # the largest disagreements, a bounded number
    last_request: datetime | None = None  # of the new version

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dict(_converter.unstructure(self))

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> AnalysisState:
        """Read what `to_json` wrote."""
        return _converter.structure(dict(tree), cls)


_converter = cattrs.Converter()
_converter.register_unstructure_hook(datetime, format_time)
_converter.register_structure_hook(datetime, lambda text, _: parse_time(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """How stable did before the switch of a blue-green deployment."""

    requests: int = 0
    errors: int = 0
    p95_ms: float | None = None

    @classmethod
    def of(cls, points: Iterable[Mapping[str, Any]], version: int | None) -> Baseline:
        """Sum up a version's traffic measurements."""
        own = [point for point in points if point["version"] == version]
        slow = [float(point["p95_ms"]) for point in own if point.get("p95_ms") is not None]
        return cls(
            requests=sum(int(point["requests"]) for point in own),
            errors=sum(int(point["errors"]) for point in own),
            p95_ms=sorted(slow)[len(slow) // 2] if slow else None,
        )


def judged_metrics(strategy: DeploymentStrategy, policy: RolloutPolicy) -> tuple[str, ...]:
    """Return which metrics a rollout has, as options name them."""
    if strategy is DeploymentStrategy.SHADOW:
        return ("error-rate", "latency", "disagreement", "prediction-shift", "accuracy")
    mirrored = policy.mirror > 0 and strategy is not DeploymentStrategy.ROLLING
    # After the switch of a blue-green deployment stable tells nobody anything to compare with.
    served_by_both = strategy is not DeploymentStrategy.BLUE_GREEN
    names = ["error-rate", "latency"]
    return (*names, *["disagreement"] * mirrored, *["prediction-shift", "accuracy"] * served_by_both)


def begin(
    record: Rollout,
    position: str | None,
    now: datetime,
    baseline: Baseline | None = None,
    *,
    classes: int = 0,
    labels_until: str = "",
) -> AnalysisState:
    """Return the state before the first request of a rollout that starts to take traffic.

    Parameters
    ----------
    classes : int
        Classes of the new version; 0 when it gives values.
    labels_until : str
        The newest file of labels: what has arrived before the rollout does not count.
    """
    policy = record.policy
    names = judged_metrics(record.strategy, policy)
    # What is only watched fails nothing, so it takes nothing of the error that all others share.
    alpha = policy.alpha / max(sum(name not in policy.watched for name in names), 1)
    least = policy.min_requests
    state = AnalysisState(position=position, paired_until=now, labels_until=labels_until)
    mirrored = "disagreement" in names
    if mirrored:
        disagreement = BoundedRateTest(bound=policy.max_disagreement, alpha=alpha, minimum_requests=least)
        state = replace(state, disagreement=disagreement)
    if record.strategy is not DeploymentStrategy.BLUE_GREEN:
        return replace(
            state,
            shift=ShiftTest.start(bound=policy.max_shift, alpha=alpha, minimum_requests=least, classes=classes),
            accuracy=ErrorRateTest(alpha=alpha, tolerated_increase=policy.max_accuracy_loss, minimum_requests=least),
            errors=ErrorRateTest(alpha=alpha, tolerated_increase=policy.max_error_increase, minimum_requests=least),
            latency=LatencyTest(
                alpha=alpha,
                tolerated_slowdown=policy.max_slowdown,
                unacceptable_slowdown=policy.max_slowdown + 0.15,
                minimum_requests=least,
            ),
        )
    known = baseline if baseline is not None and baseline.requests >= BASELINE_REQUESTS else Baseline()
    rate = known.errors / known.requests if known.requests else 0.0
    bound = min(rate + policy.max_error_increase, 0.9)
    state = replace(
        state,
        error_bound=BoundedRateTest(bound=bound, alpha=alpha, minimum_requests=least, what="error rate"),
    )
    if known.p95_ms is None:
        return state
    return replace(
        state,
        slow_over_ms=known.p95_ms * (1 + policy.max_slowdown) + policy.latency_slack_ms,
        slow_bound=BoundedRateTest(bound=SLOW_SHARE, alpha=alpha, minimum_requests=least, what="slow answers"),
    )


def compared_anew(state: AnalysisState, record: Rollout, until: datetime, *, classes: int) -> AnalysisState:
    """Return the state after the clock was set back to `until`: what is read by time of day is compared anew.

    Answers to come get times at which answers were counted already, and cannot be told from them. With fresh tests
    none counts twice, and none is left out until the clock has caught up.
    """
    fresh = begin(record, state.position, until, classes=classes)
    latency = fresh.latency if record.strategy is DeploymentStrategy.SHADOW else state.latency
    return replace(
        state, paired_until=until, disagreement=fresh.disagreement, shift=fresh.shift, latency=latency, worst=()
    )


def add_requests(state: AnalysisState, record: Rollout, rows: Sequence[AccessRow], position: str) -> AnalysisState:
    """Return the state after more rows of the access log."""
    split = [row for row in rows if charged(row) and row.model == record.model and row.route == "default"]
    canary = [row for row in split if row.version == record.target]
    stable = [row for row in split if row.version == record.base]
    step = "" if record.in_force_since is None else f"{record.step}@{format_time(record.in_force_since)}"
    before = state.step_requests if step == state.step else 0
    last = max((row.time for row in canary), default=state.last_request)
    state = replace(
        state, position=position, step=step, step_requests=before + (len(canary) if step else 0), last_request=last
    )
    if not canary and not stable:
        return state
    slow = [row.duration_ms for row in canary if _timed(row) and row.duration_ms is not None]
    if state.errors is not None:
        errors = state.errors.updated(
            canary_requests=len(canary),
            canary_errors=sum(failed(row) for row in canary),
            baseline_requests=len(stable),
            baseline_errors=sum(failed(row) for row in stable),
        )
        state = replace(state, errors=errors)
    if state.latency is not None:
        # The first milliseconds are for free: on an answer of one, a share of it says nothing to anybody.
        slack = record.policy.latency_slack_ms
        latency = state.latency.updated(
            canary_ms=[round(max(value - slack, 0.0), 3) for value in slow],
            baseline_ms=[round(row.duration_ms, 3) for row in stable if _timed(row) and row.duration_ms is not None],
        )
        state = replace(state, latency=latency)
    if state.error_bound is not None:
        bound = state.error_bound.updated(requests=len(canary), events=sum(failed(row) for row in canary))
        state = replace(state, error_bound=bound)
    if state.slow_bound is not None and state.slow_over_ms is not None:
        over = sum(value > state.slow_over_ms for value in slow)
        state = replace(state, slow_bound=state.slow_bound.updated(requests=len(slow), events=over))
    return state


def _timed(row: AccessRow) -> bool:
    return row.from_replica and not row.fell_back and row.status < 400


def add_pairs(state: AnalysisState, record: Rollout, predictions: pa.Table, until: datetime) -> AnalysisState:
    """Return the state after the predictions up to `until`, those of both versions joined by prediction id."""
    state = replace(state, paired_until=until)
    if predictions.num_rows == 0 or record.base is None:
        return state
    if state.shift is not None:
        canary, stable = answers_of(predictions, record.target), answers_of(predictions, record.base)
        state = replace(state, shift=state.shift.updated(canary=canary, stable=stable))
    if state.disagreement is None:
        return state
    pairs, events = disagreements(predictions, stable=record.base, canary=record.target)
    state = replace(state, disagreement=state.disagreement.updated(requests=pairs, events=events))
    if events and "input" in predictions.column_names:  # a simulation has no inputs
        ever = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
        both = pair(predictions, stable=record.base, new=record.target, since=ever[0], until=ever[1])
        return replace(state, worst=worst(state.worst, both))
    return state


def add_labels(
    state: AnalysisState,
    record: Rollout,
    predictions: pa.Table,
    labels: pa.Table,
    class_names: tuple[str, ...],
    until: str,
) -> AnalysisState:
    """Return the state after the labels of the files up to `until`, for predictions since the rollout began."""
    state = replace(state, labels_until=until)
    if state.accuracy is None or record.base is None:
        return state
    copied = record.target if record.strategy is DeploymentStrategy.SHADOW else None
    found = wrong_answers(predictions, labels, class_names, (record.base, record.target), copied=copied)
    accuracy = state.accuracy.updated(
        canary_requests=found[record.target][0],
        canary_errors=found[record.target][1],
        baseline_requests=found[record.base][0],
        baseline_errors=found[record.base][1],
    )
    return replace(state, accuracy=accuracy)


def disagreements(predictions: pa.Table, *, stable: int, canary: int) -> tuple[int, int]:
    """Return how many rows both versions answered, and on how many of these they differ.

    A request that was served and copied to the same version counts once, as served: as `disagreements.pair` has it.
    """
    import numpy as np

    column = "label" if "label" in predictions.column_names else "value"
    versions = predictions["version"].to_numpy()
    keys = list(zip(predictions["prediction_id"].to_pylist(), predictions["row"].to_pylist(), strict=True))
    answers = predictions[column].to_pylist()
    sides: dict[int, dict[tuple[str, int], Any]] = {stable: {}, canary: {}}
    positions = np.flatnonzero(np.isin(versions, [stable, canary]))
    if "mirrored" in predictions.column_names:
        positions = positions[np.argsort(predictions["mirrored"].to_numpy()[positions], kind="stable")]
    for position in positions:
        sides[int(versions[position])].setdefault(keys[position], answers[position])
    both = sides[stable].keys() & sides[canary].keys()
    return len(both), sum(differ(sides[stable][key], sides[canary][key]) for key in both)


def judge(state: AnalysisState, policy: RolloutPolicy) -> Judgement:
    """Return the verdicts of all metrics on what has been seen."""
    least = policy.min_requests
    metrics = []
    if state.errors is not None:
        found = state.errors.evidence()
        metrics.append(_verdict("error rate", found, least, _over(found.high, policy.max_error_increase)))
    if state.latency is not None:
        found = state.latency.evidence()
        metrics.append(_verdict("latency", found, least, _over(max(found.high - 0.5, 0.0), 0.25)))
    for name, test in (("error rate", state.error_bound), ("latency", state.slow_bound)):
        if test is not None:
            found = test.evidence()
            metrics.append(_verdict(name, found, least, _over(found.high, test.bound)))
    if state.disagreement is not None:
        found = state.disagreement.evidence()
        metrics.append(_verdict("disagreement", found, least, _over(found.high, state.disagreement.bound)))
    if state.shift is not None:
        found = state.shift.evidence()
        metrics.append(_verdict("prediction shift", found, least, _over(found.high, policy.max_shift)))
    if state.accuracy is not None:
        found = state.accuracy.evidence()
        words = "no label has arrived" if not found.requests else found.reason.replace("error rate", "wrong answers")
        told = replace(found, reason=f"accuracy: {words}")
        metrics.append(_verdict("accuracy", told, least, _over(found.high, policy.max_accuracy_loss)))
    return Judgement(
        metrics=tuple(replace(metric, mode=_mode(metric.slug, policy)) for metric in metrics),
        step_requests=state.step_requests,
        last_request=state.last_request,
    )


def _mode(slug: str, policy: RolloutPolicy) -> Literal["required", "optional", "watched"]:
    if slug in policy.watched:
        return "watched"
    return "optional" if slug in policy.optional else "required"


def _verdict(name: str, found: Evidence, least: int, worst: float | None) -> MetricVerdict:
    return MetricVerdict(
        name=name,
        outcome=Outcome(found.verdict),
        reason=found.reason if found.reason.startswith(name) else f"{name}: {found.reason}",
        requests=found.requests,
        enough=found.requests >= least,
        estimate=_finite(found.estimate),
        low=_finite(found.low),
        high=_finite(found.high),
        worst=worst,
    )


def _over(value: float, tolerated: float) -> float | None:
    return value / tolerated if math.isfinite(value) else None


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


@dataclass(slots=True)
class AnalysisMemory:
    """The state of one rollout in this process, and when its sources were read last."""

    state: AnalysisState
    judgement: Judgement = field(default_factory=Judgement)
    read_at: float = 0.0
    paired_at: float = 0.0
    labels_due: float = 0.0
    noted_at: float = 0.0
