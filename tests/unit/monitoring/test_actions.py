"""What alerts do by policy: once each, audited, held by maintenance, refused when it is not possible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.policy import make_policy
from mlcycle_nb.deployment.records import DeploymentStrategy, Rollout, Service, Weight
from mlcycle_nb.errors import InvalidInput, Refused, StoreError, UnknownPlugin
from mlcycle_nb.monitoring.action_controller import AlertActionController
from mlcycle_nb.monitoring.action_records import AlertAction
from mlcycle_nb.monitoring.actions import ACTIONS, parse_policy
from mlcycle_nb.monitoring.alerts import Evidence
from mlcycle_nb.monitoring.incidents import record_evidence
from mlcycle_nb.monitoring.maintenance import Maintenance
from mlcycle_nb.monitoring.records import Alert, Monitor
from mlcycle_nb.monitoring.windows import Streak
from mlcycle_nb.store.audit import events, verify
from mlcycle_nb.supervisor.loop import ReconcileLoop
from mlcycle_nb.testing import FakeClock

SERVICE = "production/credit"


@dataclass
class Counting:
    """Counts how often it was asked; refuses as scripted."""

    refusals: list[Exception] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)

    def take(self, context: Context, monitor: Monitor, alert: Alert) -> str:
        self.taken.append(alert.id)
        if self.refusals:
            raise self.refusals.pop(0)
        return "counted"


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    plugin = Counting()
    monkeypatch.setitem(ACTIONS._loaded, "counting", plugin)
    return plugin


@pytest.fixture
def turn(context: Context) -> Callable[[], None]:
    def run() -> None:
        loop = ReconcileLoop(context, [AlertActionController(context)])
        for _ in range(4):
            loop.turn()
            loop.settle()
        loop.close()

    return run


def evidence(context: Context, monitor: Monitor, state: str, version: int = 2) -> Alert | None:
    streak = Streak(bad=1) if state == "bad" else Streak(clear=9)
    found = Evidence(
        kind="model_drift",
        version=version,
        state=state,  # type: ignore[arg-type]
        subjects=("accuracy",),
        summary="accuracy fell",
        streaks={version: streak},
    )
    return record_evidence(context, monitor, found)


def fire(context: Context, monitor: Monitor, version: int = 2) -> Alert:
    alert = evidence(context, monitor, "bad", version)
    assert alert is not None
    return alert


class TestPolicy:
    def test_words_and_lists(self) -> None:
        assert parse_policy(["accuracy=rollback", "drift=pause,retrain", "data_drift=pause"]) == {
            "model_drift": ("rollback",),
            "data_drift": ("pause", "retrain"),
            "prediction_drift": ("pause", "retrain"),
            "joint_drift": ("pause", "retrain"),
        }

    @pytest.mark.parametrize(
        ("text", "error", "said"),
        [
            ("accuracy", InvalidInput, "KIND=ACTION"),
            ("accuracy=", InvalidInput, "KIND=ACTION"),
            ("acuracy=rollback", InvalidInput, "did you mean 'accuracy'"),
            ("accuracy=rolback", UnknownPlugin, "did you mean 'rollback'"),
            ("no_data=rollback", InvalidInput, "says nothing about a version"),
        ],
    )
    def test_what_cannot_be_meant(self, text: str, error: type[Exception], said: str) -> None:
        with pytest.raises(error, match=said):
            parse_policy([text])


class TestOnce:
    def test_an_action_is_taken_once_an_alert_however_often_it_fires(
        self, context: Context, declare, turn, counting: Counting
    ) -> None:
        monitor = declare(on_alert={"model_drift": ("counting",)})
        alert = fire(context, monitor)
        turn()
        evidence(context, monitor, "clear")
        again = fire(context, monitor)
        turn()
        [record] = context.store.find(AlertAction)

        assert again.id == alert.id  # its end was not told: it is the same alert
        assert counting.taken == [alert.id]
        assert (record.phase, record.outcome) == ("done", "counted")
        told = {e["event"] for e in events(context.store, subject=f"alert_action:{record.id}", limit=10)}
        assert told == {"action.queued", "action.started", "action.done"}
        assert verify(context.store).intact

    def test_a_kind_without_a_policy_does_nothing(self, context: Context, declare, turn, counting: Counting) -> None:
        fire(context, declare(on_alert={"data_drift": ("counting",)}))
        turn()

        assert counting.taken == []
        assert context.store.find(AlertAction) == []

    def test_a_refusal_is_kept_and_not_tried_again(self, context: Context, declare, turn, counting: Counting) -> None:
        counting.refusals = [Refused("nothing to roll back to")]
        fire(context, declare(on_alert={"model_drift": ("counting",)}))
        turn()
        turn()
        [record] = context.store.find(AlertAction)

        assert len(counting.taken) == 1
        assert record.phase == "refused"
        assert "nothing to roll back to" in record.outcome

    def test_what_is_down_for_a_moment_loses_no_action(
        self, context: Context, declare, turn, counting: Counting, fake_clock: FakeClock
    ) -> None:
        counting.refusals = [StoreError("the database is busy")]
        fire(context, declare(on_alert={"model_drift": ("counting",)}))
        turn()
        [record] = context.store.find(AlertAction)
        assert record.phase in {"running", "done"}
        fake_clock.advance(timedelta(minutes=10))
        turn()

        assert context.store.get(AlertAction, record.id).phase == "done"

    def test_a_stopped_monitor_does_nothing(self, context: Context, declare, turn, counting: Counting) -> None:
        """Neither with an alert that comes later, nor with what still waited."""
        monitor = declare(on_alert={"model_drift": ("counting",)})
        fire(context, monitor)
        with context.store.transaction(actor="ana") as transaction:
            stopped = transaction.update(replace(monitor, phase="stopped"), event="monitor.stopped")
        turn()
        [waited] = context.store.find(AlertAction)
        evidence(context, stopped, "clear")
        fire(context, stopped)

        assert (waited.phase, waited.outcome) == ("refused", "the monitor was stopped before")
        assert context.store.find(AlertAction) == [waited]
        assert counting.taken == []

    def test_maintenance_holds_it_and_an_alert_that_ends_meanwhile_drops_it(
        self, context: Context, declare, turn, counting: Counting, fake_clock: FakeClock
    ) -> None:
        monitor, now = declare(on_alert={"model_drift": ("counting",)}), context.clock.now()
        window = Maintenance(
            id="m1",
            phase="planned",
            created_at=now,
            environment="production",
            model="credit",
            kind="",
            days=(),
            start=now.replace(tzinfo=None).isoformat(),
            seconds=60.0,
            zone="UTC",
            reason="load test",
            created_by="ana",
        )
        with context.store.transaction(actor="ana") as transaction:
            transaction.insert(window, event="maintenance.planned")
        fire(context, monitor)
        turn()
        assert counting.taken == []

        evidence(context, monitor, "clear")
        turn()
        [record] = context.store.find(AlertAction)
        assert (record.phase, record.outcome) == ("refused", "the alert was over before")
        fake_clock.advance(timedelta(seconds=61))
        turn()
        assert counting.taken == []

    def test_maintenance_over_lets_it_go_on(
        self, context: Context, declare, turn, counting: Counting, fake_clock: FakeClock
    ) -> None:
        start = context.clock.now().replace(tzinfo=None).isoformat()
        plan: dict[str, Any] = {"environment": "production", "model": "", "kind": "", "days": (), "zone": "UTC"}
        window = Maintenance(
            id="m", phase="planned", created_at=context.clock.now(), start=start, seconds=60.0, reason="x",
            created_by="ana", **plan,
        )  # fmt: skip
        with context.store.transaction(actor="ana") as transaction:
            transaction.insert(window, event="maintenance.planned")
        alert = fire(context, declare(on_alert={"model_drift": ("counting",)}))
        turn()
        fake_clock.advance(timedelta(seconds=60))
        turn()

        assert counting.taken == [alert.id]


def deployed(context: Context, stables: tuple[int, ...]) -> Service:
    service = Service(
        id=SERVICE,
        phase="serving",
        created_at=context.clock.now(),
        environment="production",
        model="credit",
        stable=stables[-1],
        stables=stables,
        split=(Weight(stables[-1], 10_000),),
    )
    with context.store.transaction(actor="tester") as transaction:
        return transaction.insert(service, event="service.created")


def rolling(
    context: Context,
    target: int,
    phase: str = "progressing",
    strategy: DeploymentStrategy = DeploymentStrategy.CANARY,
) -> Rollout:
    rollout = Rollout(
        id=f"{SERVICE}/r1",
        phase=phase,
        created_at=context.clock.now(),
        environment="production",
        model="credit",
        target=target,
        digest="sha256:0",
        strategy=strategy,
        replicas=1,
        policy=make_policy(DeploymentStrategy.CANARY),
        actor="ana",
        pid=1,
        base=1,
        phase_since=context.clock.now(),
    )
    with context.store.transaction(actor="tester") as transaction:
        return transaction.insert(rollout, event="rollout.created")


def take(context: Context, name: str, monitor: Monitor, alert: Alert) -> str:
    return ACTIONS.load(name).take(context, monitor, alert)


class TestPause:
    def test_the_running_rollout_pauses_once(self, context: Context, declare) -> None:
        monitor = declare()
        rolling(context, 2)
        alert = fire(context, monitor)
        said = take(context, "pause", monitor, alert)
        paused = context.store.get(Rollout, f"{SERVICE}/r1")
        [event] = [e for e in events(context.store, subject=f"rollout:{paused.id}", limit=9) if "paused" in e["event"]]

        assert said == f"rollout {SERVICE}/r1 was paused"
        assert paused.phase == "paused"
        assert event["actor"] == f"supervisor for {alert.id}"
        # A person goes on; the supervisor, which died before it noted what it had done, asks again.
        with context.store.transaction(actor="ana") as transaction:
            transaction.update(replace(paused, phase="progressing"), event="rollout.resumed")
        take(context, "pause", monitor, alert)
        assert context.store.get(Rollout, paused.id).phase == "progressing"

    def test_refused_without_a_rollout_or_when_it_goes_back_already(self, context: Context, declare) -> None:
        monitor = declare()
        alert = fire(context, monitor)
        with pytest.raises(Refused, match="no rollout of this service runs"):
            take(context, "pause", monitor, alert)
        rolling(context, 2, "aborting")
        with pytest.raises(Refused, match="too late to pause"):
            take(context, "pause", monitor, alert)

    def test_what_brings_an_earlier_version_back_is_not_held_up(self, context: Context, declare) -> None:
        monitor = declare()
        before = rolling(context, 1, "preparing", DeploymentStrategy.ROLLBACK)
        with pytest.raises(Refused, match="is on its way back"):
            take(context, "pause", monitor, fire(context, monitor))
        assert context.store.get(Rollout, before.id) == before


class TestRollback:
    def test_a_rollout_of_the_troubled_version_is_aborted_once(self, context: Context, declare) -> None:
        monitor = declare()
        deployed(context, (1,))
        rolling(context, 2)
        alert = fire(context, monitor, version=2)
        first = take(context, "rollback", monitor, alert)
        before = context.store.get(Rollout, f"{SERVICE}/r1")

        assert before.phase == "aborting"
        assert take(context, "rollback", monitor, alert) == first
        assert context.store.get(Rollout, before.id) == before

    @pytest.mark.parametrize(
        ("stables", "target", "version", "said"),
        [
            ((), None, 2, "nothing is deployed"),
            ((1,), 2, 1, "another version runs"),
            ((1, 2), None, 1, "not about the stable version 2"),
            ((2,), None, 2, "nothing to roll back to"),
        ],
    )
    def test_refusals_move_nothing(
        self, context: Context, declare, stables: tuple[int, ...], target: int | None, version: int, said: str
    ) -> None:
        monitor = declare()
        if stables:
            deployed(context, stables)
        if target is not None:
            rolling(context, target)
        alert = fire(context, monitor, version=version)
        before = (context.store.find(Rollout), context.store.find(Service))
        with pytest.raises(Refused, match=said):
            take(context, "rollback", monitor, alert)

        assert (context.store.find(Rollout), context.store.find(Service)) == before

    def test_a_version_that_the_alert_is_about_as_well_is_no_way_out(self, context: Context, declare) -> None:
        monitor = declare()
        deployed(context, (1, 2))
        fire(context, monitor, version=2)
        alert = fire(context, monitor, version=1)

        assert set(alert.versions) == {1, 2}
        with pytest.raises(Refused, match="an alert was about version 1 too"):
            take(context, "rollback", monitor, alert)

    def test_two_versions_do_not_send_each_other_away_for_ever(self, context: Context, declare) -> None:
        monitor = declare()
        deployed(context, (1, 2, 1))  # an alert about 2 brought 1 back; now there is one about 1
        record = AlertAction(
            id="alert-0-rollback",
            phase="done",
            created_at=context.clock.now(),
            alert="alert-0",
            monitor=monitor.id,
            action="rollback",
            versions=(2,),
        )
        with context.store.transaction(actor="tester") as transaction:
            transaction.insert(record, event="action.done")
        with pytest.raises(Refused, match="an alert was about version 2 too"):
            take(context, "rollback", monitor, fire(context, monitor, version=1))


class TestRetrain:
    def test_a_version_of_no_run_is_refused(self, workspace: Any, built: Any) -> None:
        from mlcycle_nb.packages import PackageStore

        context = workspace.context
        package = PackageStore(context.folder("packages")).add(built.path)
        workspace.development.register_model("credit", package)
        alert = Alert(
            id="alert-1",
            phase="firing",
            created_at=context.clock.now(),
            monitor=SERVICE,
            kind="model_drift",
            subjects=(),
            versions=(1,),
            summary="",
        )
        monitor = Monitor(
            id=SERVICE,
            phase="running",
            created_at=context.clock.now(),
            environment="production",
            model="credit",
            window=100,
            detectors=(),
            channels=(),
        )
        with pytest.raises(Refused, match="of no run"):
            take(context, "retrain", monitor, alert)
