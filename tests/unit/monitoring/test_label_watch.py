"""Labels that came by HTTP: measured once, again when their predictions were late, and the same after a crash."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.records import DeploymentStrategy, Rollout, RolloutPolicy
from mlcycle_nb.monitoring import label_watch, labelling
from mlcycle_nb.monitoring.controller import Measure, Observation, next_action
from mlcycle_nb.monitoring.inspection import Inspector
from mlcycle_nb.monitoring.label_watch import LabelWatch
from mlcycle_nb.monitoring.records import Alert, Monitor
from mlcycle_nb.monitoring.state import Progress
from mlcycle_nb.monitoring.windows import Part, Stream
from mlcycle_nb.packages import Package, load_runtime
from mlcycle_nb.serving.label_desk import LabelDesk
from mlcycle_nb.serving.labels import Label
from mlcycle_nb.store.audit import entries
from mlcycle_nb.testing.predictions import PredictionFeed
from tests.unit.monitoring.conftest import rows


class InProcess:
    """The worker's own code, asked without a socket."""

    def __init__(self, context: Context) -> None:
        self.inspector = Inspector(context.home)
        self.asked = 0

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked += 1
        return self.inspector.answer(request)


class Watched:
    """A monitored service, its desk for labels, and the watch over them."""

    def __init__(self, context: Context, package: Package, declare: Callable[..., Monitor]) -> None:
        self.context = context
        self.monitor = declare(digests={"1": package.digest})
        self.worker = InProcess(context)
        self.watch = LabelWatch(context, self.worker)  # type: ignore[arg-type]
        self.desk = LabelDesk(context.home, "production", context.clock)
        self.runtime = load_runtime(package)
        self.feed = PredictionFeed(context.home, "production", "credit", 1)

    def serve(self, ids: list[str]) -> dict[str, int]:
        outputs = self.runtime.predict({"input": rows(len(ids), 3)})
        self.feed.send(rows(len(ids), 3), outputs, ids=ids)
        return dict(zip(ids, outputs["label"].tolist(), strict=True))

    def post(self, labels: dict[str, int]) -> None:
        self.desk.take("credit", [[Label(key, 0, str(label)) for key, label in labels.items()]])

    def turn(self) -> bool:
        """Look, and measure when there is something; return whether there was."""
        found = self.watch.look(self.monitor)
        if found:
            self.watch.measure(self.monitor, [1], found)
        return bool(found)

    def measured(self) -> list[tuple[int, int]]:
        kept = self.context.store.measurements("labels:production/credit", kind="performance")
        return [(row["labelled"], row["unknown"]) for row in kept]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [1000.0]
    monkeypatch.setattr(label_watch.time, "monotonic", lambda: clock[0])
    return clock


@pytest.fixture
def watched(context: Context, package: Package, declare: Callable[..., Monitor], now: list[float]) -> Watched:
    return Watched(context, package, declare)


IDS = [f"p{number}" for number in range(100)]


def test_labels_come_before_windows() -> None:
    monitor = Monitor(
        id="production/credit", phase="running", created_at=None, environment="production", model="credit",  # type: ignore[arg-type]
        window=100, detectors=("ks",), channels=(),
    )  # fmt: skip
    full = Progress(streams={1: Stream(waiting=(Part("a", 0, 100),))})

    assert next_action(monitor, Observation(full, {}, None, False, ("1-a.arrow",)), None) == Measure()  # type: ignore[arg-type]


def test_new_labels_are_measured_once_and_told(watched: Watched, now: list[float]) -> None:
    answers = watched.serve(IDS)
    watched.post({key: 1 - label for key, label in answers.items()})
    assert watched.turn()
    assert not watched.turn()  # too early
    now[0] += 60
    assert not watched.turn()  # nothing new
    [alert] = watched.context.store.find(Alert)
    noted = [entry for entry in entries(watched.context.store) if '"labels.recorded"' in entry.body]

    assert watched.measured() == [(100, 0)]
    assert (alert.kind, alert.phase, alert.versions) == ("model_drift", "firing", (1,))
    assert len(noted) == 1
    assert watched.worker.asked == 1


@pytest.mark.parametrize("under_way", [False, True])
def test_what_was_counted_is_folded_unless_a_rollout_counts(
    watched: Watched, now: list[float], under_way: bool
) -> None:
    answers = watched.serve(IDS)
    for repeat in range(2):
        for key, label in answers.items():
            watched.post({f"{key}-{repeat}" if repeat else key: label})
        if under_way and not repeat:
            begin(watched.context, watched.monitor)
        now[0] += 60
        assert watched.turn()
        now[0] += 60
    watched.post({"one-more": 1})
    assert watched.turn()
    folder = watched.context.home / "labels" / "production" / "credit"

    assert len(list(folder.iterdir())) == (201 if under_way else 2)
    assert watched.measured() == [(100, 0), (100, 100), (100, 101)]


def begin(context: Context, monitor: Monitor) -> None:
    with context.store.transaction(actor="test") as transaction:
        transaction.insert(
            Rollout(
                id=f"{monitor.id}/r1",
                phase="progressing",
                created_at=context.clock.now(),
                phase_since=context.clock.now(),
                environment=monitor.environment,
                model=monitor.model,
                target=2,
                digest="sha256:" + "0" * 64,
                strategy=DeploymentStrategy.CANARY,
                replicas=1,
                policy=RolloutPolicy(),
                actor="test",
                pid=1,
            ),
            event="rollout.created",
        )


def test_predictions_that_are_written_after_their_labels_are_looked_for_once_more(
    watched: Watched, now: list[float]
) -> None:
    watched.serve(IDS)
    watched.post({"late": 1, "never": 1})
    assert watched.turn()
    watched.serve(["late"])
    now[0] += 1
    assert not watched.turn()
    now[0] += 3
    assert watched.turn()
    now[0] += 60
    assert not watched.turn()

    assert watched.measured() == [(0, 2), (1, 1)]


def test_a_crash_before_the_end_measures_again_and_alerts_once(
    watched: Watched, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = watched.serve(IDS)
    watched.post({key: 1 - label for key, label in answers.items()})
    with monkeypatch.context() as patch:
        patch.setattr(labelling, "crash_point", _crash)
        with pytest.raises(RuntimeError):
            watched.turn()
    watched.watch = LabelWatch(watched.context, watched.worker)  # type: ignore[arg-type]
    assert watched.turn()

    assert len(watched.context.store.find(Alert)) == 1
    assert watched.measured() == [(100, 0), (100, 0)]


def test_a_measurement_that_fails_leaves_the_windows_time(
    watched: Watched, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.post(watched.serve(IDS))
    with monkeypatch.context() as patch:
        patch.setattr(watched.worker, "ask", _crash)
        with pytest.raises(RuntimeError):
            watched.turn()
    now[0] += 10
    assert not watched.turn()
    now[0] += 30
    assert watched.turn()
    assert watched.measured() == [(100, 0)]


def _crash(*_: Any) -> None:
    raise RuntimeError("killed here")
