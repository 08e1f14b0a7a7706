"""Alerts reach the channels: queued in one transaction, delivered at least once, silenced, given up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.monitoring.alerts import Evidence, resolved_by_hand
from mlcycle_nb.monitoring.channels import CHANNELS
from mlcycle_nb.monitoring.channels._contract import Delivery
from mlcycle_nb.monitoring.channels.notebook import owner
from mlcycle_nb.monitoring.delivery import AlertController, NotificationController, SilenceController
from mlcycle_nb.monitoring.incidents import record_evidence
from mlcycle_nb.monitoring.maintenance import Maintenance
from mlcycle_nb.monitoring.records import Alert, Monitor, Notification, Silence
from mlcycle_nb.monitoring.windows import Streak
from mlcycle_nb.supervisor.loop import ReconcileLoop
from mlcycle_nb.testing import FakeClock


@dataclass
class Capturing:
    """Remembers what it was given, and answers as scripted."""

    answers: list[Delivery] = field(default_factory=list)
    given: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def deliver(self, context: Context, key: str, message: Any) -> Delivery:
        self.given.append((key, dict(message)))
        return self.answers.pop(0) if self.answers else Delivery(delivered=True)


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> Capturing:
    capturing = Capturing()
    monkeypatch.setitem(CHANNELS._loaded, "capturing", capturing)
    return capturing


@pytest.fixture
def turn(context: Context) -> Callable[[], None]:
    """Run the reconcile loop until nothing more is due."""

    def run() -> None:
        controllers = [AlertController(context), NotificationController(context), SilenceController(context)]
        loop = ReconcileLoop(context, controllers)
        for _ in range(4):
            loop.turn()
            loop.settle()
        loop.close()

    return run


def seen(context: Context, monitor: Monitor, state: str, streak: Streak, kind: str = "data_drift") -> Alert | None:
    evidence = Evidence(
        kind=kind,
        version=1,
        state=state,
        subjects=("age",),
        summary="age moved",
        streaks={1: streak},  # type: ignore[arg-type]
    )
    return record_evidence(context, monitor, evidence)


def fire(context: Context, monitor: Monitor) -> Alert:
    alert = seen(context, monitor, "bad", Streak(bad=1))
    assert alert is not None
    return alert


def test_a_firing_alert_reaches_every_channel_once(context: Context, declare, turn, channel: Capturing) -> None:
    alert = fire(context, declare(channels=("notebook", "log", "capturing")))
    turn()
    turn()
    [(key, message)] = channel.given
    lines = (context.home / "logs" / "alerts.log").read_text().splitlines()
    stored = context.store.measurements(owner("production/credit"))

    assert key == f"{alert.id}-1"
    assert (message["subjects"], message["status"]) == ("age", "firing")
    assert [json.loads(line)["key"] for line in lines] == [key]
    assert [row["key"] for row in stored] == [key]
    assert {n.phase for n in context.store.find(Notification)} == {"delivered"}


def test_a_message_is_delivered_again_under_the_same_key_when_nobody_knows_whether_it_was(
    context: Context, declare, turn, channel: Capturing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor dies after the receiver has it and before that is stored."""
    fire(context, declare(channels=("notebook", "capturing")))
    with monkeypatch.context() as patch:
        patch.setattr(NotificationController, "_end", lambda self, record: (_ for _ in ()).throw(KeyboardInterrupt))
        controller = NotificationController(context)
        alerts = AlertController(context)
        [alert] = context.store.find(Alert, active=True)
        alerts.act("tell", alert, alerts.observe(alert))
        for record in context.store.find(Notification, active=True):
            with pytest.raises(KeyboardInterrupt):
                controller.act("deliver", record, {})
    turn()

    assert [key for key, _ in channel.given] == [channel.given[0][0]] * 2
    assert channel.given[0] == channel.given[1]
    assert len(context.store.measurements(owner("production/credit"))) == 1  # the store can tell by the key


def test_a_bad_sink_is_tried_with_growing_waits_and_does_not_hold_the_others(
    context: Context, declare, turn, channel: Capturing, fake_clock: FakeClock
) -> None:
    channel.answers = [Delivery(delivered=False, retry=True, detail="HTTP 503")] * 2
    fire(context, declare(channels=("capturing", "log")))
    turn()

    assert len(channel.given) == 1
    assert (context.home / "logs" / "alerts.log").exists()
    [waiting] = context.store.find(Notification, active=True)
    assert context.store.observed(Notification, waiting.id)["detail"] == "HTTP 503"
    turn()
    assert len(channel.given) == 1
    fake_clock.advance(timedelta(seconds=3))
    turn()
    fake_clock.advance(timedelta(seconds=6))
    turn()

    assert len({key for key, _ in channel.given}) == 1
    assert len(channel.given) == 3
    assert not context.store.find(Notification, active=True)


def test_a_refusal_and_a_whole_day_of_failures_end_as_dead_letters(
    context: Context, declare, turn, channel: Capturing, fake_clock: FakeClock
) -> None:
    channel.answers = [Delivery(delivered=False, detail="HTTP 404")]
    monitor = declare(channels=("capturing",))
    fire(context, monitor)
    turn()
    [dead] = context.store.find(Notification)
    assert (dead.phase, dead.detail) == ("dead", "HTTP 404")

    channel.answers = [Delivery(delivered=False, retry=True, detail="HTTP 503")] * 1000
    fake_clock.advance(timedelta(hours=5))
    turn()
    fake_clock.advance(timedelta(hours=25))
    turn()
    assert sorted(n.detail for n in context.store.find(Notification, phase="dead")) == ["HTTP 404", "HTTP 503"]


def test_a_silence_holds_the_message_until_it_ends(
    context: Context, declare, turn, channel: Capturing, fake_clock: FakeClock
) -> None:
    monitor = declare(channels=("capturing",))
    silence = Silence(
        id="s1",
        phase="active",
        created_at=context.clock.now(),
        monitor=monitor.id,
        kind="",
        until=context.clock.now() + timedelta(hours=1),
        reason="migration",
        created_by="ana",
    )
    with context.store.transaction(actor="ana") as transaction:
        transaction.insert(silence, event="silence.created")
    fire(context, monitor)
    turn()
    assert channel.given == []

    fake_clock.advance(timedelta(hours=1))
    turn()
    assert len(channel.given) == 1
    assert context.store.get(Silence, "s1").phase == "expired"


def test_the_end_is_told_and_the_next_incident_is_another(
    context: Context, declare, turn, channel: Capturing, fake_clock: FakeClock
) -> None:
    monitor = declare(channels=("capturing",))
    first = fire(context, monitor)
    turn()
    fake_clock.advance(timedelta(minutes=10))
    seen(context, monitor, "clear", Streak(clear=2))
    turn()
    fake_clock.advance(timedelta(minutes=10))
    second = fire(context, monitor)
    turn()

    assert [message["status"] for _, message in channel.given] == ["firing", "resolved", "firing"]
    assert len({key for key, _ in channel.given}) == 3
    assert first.id != second.id


def test_every_transition_is_in_the_audit_trail(context: Context, declare, turn, channel: Capturing) -> None:
    from mlcycle_nb.store.audit import events, verify

    alert = fire(context, declare(channels=("capturing",)))
    turn()
    told = [e["event"] for e in events(context.store, subject=f"alert:{alert.id}", limit=10)]

    assert sorted(told) == ["alert.firing", "alert.told"]
    assert verify(context.store).intact


def test_a_stopped_monitor_still_tells_of_its_alert(context: Context, declare, turn, channel: Capturing) -> None:
    monitor = declare(channels=("capturing",))
    fire(context, monitor)
    with context.store.transaction(actor="tester") as transaction:
        transaction.update(replace(monitor, phase="stopped"), event="monitor.stopped")
    turn()

    assert len(channel.given) == 1


def test_maintenance_holds_the_message_and_lets_go_of_what_ends_in_it(
    context: Context, declare, turn, channel: Capturing, fake_clock: FakeClock
) -> None:
    monitor, now = declare(channels=("capturing",)), context.clock.now()
    window = Maintenance(
        id="m1",
        phase="planned",
        created_at=now,
        environment="production",
        model="",
        kind="",
        days=(),
        start=now.replace(tzinfo=None).isoformat(),
        seconds=3600.0,
        zone="UTC",
        reason="new hardware",
        created_by="ana",
    )
    with context.store.transaction(actor="ana") as transaction:
        transaction.insert(window, event="maintenance.planned")
    first = fire(context, monitor)
    turn()
    seen(context, monitor, "clear", Streak(clear=2))
    turn()
    second = fire(context, monitor)
    turn()
    assert channel.given == []
    assert context.store.get(Alert, first.id).told_resolved

    fake_clock.advance(timedelta(hours=1))
    turn()
    assert [message["alert"] for _, message in channel.given] == [second.id]


def test_alerts_of_a_service_share_a_message_when_asked_to(
    context: Context, declare, turn, channel: Capturing, fake_clock: FakeClock
) -> None:
    monitor = declare(channels=("capturing",), group_by="service")
    for kind in ("data_drift", "prediction_drift", "joint_drift"):
        seen(context, monitor, "bad", Streak(bad=1), kind=kind)
    turn()
    [(key, message)] = channel.given

    assert set(str(message["kind"]).split(", ")) == {"data_drift", "prediction_drift", "joint_drift"}
    assert len(str(message["alerts"]).split(", ")) == 3
    assert key == f"{message['alert']}-1"
    seen(context, monitor, "bad", Streak(bad=1), kind="model_drift")
    turn()
    assert len(channel.given) == 1, "the group's interval holds for a new kind too"
    fake_clock.advance(timedelta(seconds=300))
    turn()
    assert [m["kind"] for _, m in channel.given][1:] == ["model_drift"]


@pytest.mark.parametrize("flaps", [150, pytest.param(10_000, marks=[pytest.mark.faults, pytest.mark.timeout(900)])])
def test_trouble_that_comes_and_goes_is_one_message_an_interval(
    context: Context, declare, turn, channel: Capturing, fake_clock: FakeClock, flaps: int
) -> None:
    monitor = declare(channels=("capturing",), group_seconds=300.0, repeat_seconds=14_400.0)
    first = fire(context, monitor)
    turn()
    for number in range(1, flaps):
        seen(context, monitor, "clear", Streak(clear=2))
        fire(context, monitor)
        fake_clock.advance(timedelta(seconds=250 / flaps))
        if number % (flaps // 10) == 0:
            turn()
    assert [message["status"] for _, message in channel.given] == ["firing"]
    assert [alert.id for alert in context.store.find(Alert)] == [first.id]
    assert context.store.get(Alert, first.id).flaps == flaps - 1

    fake_clock.advance(timedelta(seconds=300))
    turn()
    assert len(channel.given) == 1, "to its receivers it fires still, and the repeat interval is four hours"
    seen(context, monitor, "clear", Streak(clear=2))
    turn()
    assert [message["status"] for _, message in channel.given] == ["firing", "resolved"]
    assert channel.given[-1][1]["flaps"] == flaps - 1


def test_trouble_that_has_to_be_confirmed_is_one_alert_too(
    context: Context, declare, turn, channel: Capturing, fake_clock: FakeClock
) -> None:
    """Each time it is pending first, as a record of its own."""
    monitor = declare(channels=("capturing",), confirm_windows=2, group_seconds=300.0, repeat_seconds=14_400.0)
    for _ in range(20):
        seen(context, monitor, "bad", Streak(bad=1))
        seen(context, monitor, "bad", Streak(bad=2))
        turn()
        seen(context, monitor, "clear", Streak(clear=2))
        fake_clock.advance(timedelta(seconds=10))
    [alert] = context.store.find(Alert, active=True)

    assert alert.flaps == 19
    assert [message["status"] for _, message in channel.given] == ["firing"]


def test_a_group_is_told_once_an_interval_however_many_newer_alerts_there_are(
    context: Context, declare, turn, channel: Capturing, fake_clock: FakeClock
) -> None:
    monitor = declare(channels=("capturing",), group_by="service", group_seconds=300.0)
    first = fire(context, monitor)
    turn()
    with context.store.transaction(actor="ana") as transaction:
        for number in range(60):
            old = replace(
                first, id=f"alert-{number}", phase="resolved", created_at=context.clock.now(), notified_at=None,
                told_resolved=True, kind=f"kind-{number}", version=0,
            )  # fmt: skip
            transaction.insert(old, event="alert.firing")
    seen(context, monitor, "bad", Streak(bad=1), kind="joint_drift")
    turn()
    assert len(channel.given) == 1
    fake_clock.advance(timedelta(seconds=300))
    turn()
    assert len(channel.given) == 2


def test_a_clock_that_was_set_back_does_not_open_the_gates(
    context: Context, declare, turn, channel: Capturing, fake_clock: FakeClock
) -> None:
    monitor = declare(channels=("capturing",), group_by="service", group_seconds=300.0)
    fire(context, monitor)
    turn()
    fake_clock.advance(timedelta(hours=-1))
    for kind in ("joint_drift", "prediction_drift", "model_drift"):
        seen(context, monitor, "bad", Streak(bad=1), kind=kind)
        turn()
        fake_clock.advance(timedelta(seconds=20))

    assert len(channel.given) == 2, "one for the first of them; the others wait for its interval"


def test_a_channel_that_cannot_be_loaded_keeps_no_other_from_being_told(context: Context, declare, turn) -> None:
    """It was registered in a notebook, or its package is not installed here."""
    fire(context, declare(channels=("gone", "log")))
    turn()
    waiting = {one.channel: one.phase for one in context.store.find(Notification)}

    assert len((context.home / "logs" / "alerts.log").read_text().splitlines()) == 1
    assert waiting == {"gone": "queued", "log": "delivered"}


def test_a_plug_in_that_raises_anything_ends_as_a_dead_letter(
    context: Context, declare, turn, channel: Capturing, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Delivery:
        raise TypeError("a secret")

    monkeypatch.setattr(channel, "deliver", broken)
    fire(context, declare(channels=("capturing",)))
    turn()
    fake_clock.advance(timedelta(hours=25))
    turn()
    [dead] = context.store.find(Notification, phase="dead")

    assert dead.detail == "TypeError"


def test_what_a_person_closed_is_not_opened_again(context: Context, declare, turn, channel: Capturing) -> None:
    monitor = declare(channels=("capturing",))
    first = fire(context, monitor)
    turn()
    with context.store.transaction(actor="ana") as transaction:
        now = context.clock.now()
        transaction.update(resolved_by_hand(transaction.get(Alert, first.id), "ana", now), event="alert.resolved")

    assert fire(context, monitor).id != first.id


def test_two_threads_that_tell_of_one_group_make_one_message(
    context: Context, declare, turn, channel: Capturing
) -> None:
    """Both looked before either had told."""
    monitor = declare(channels=("capturing",), group_by="service")
    for kind in ("data_drift", "joint_drift"):
        seen(context, monitor, "bad", Streak(bad=1), kind=kind)
    controller = AlertController(context)
    views = [(alert, controller.observe(alert)) for alert in context.store.find(Alert, active=True)]
    for alert, view in views:
        assert controller.next_action(alert, view, context.clock.now()) == "tell"
    for alert, view in views:
        controller.act("tell", alert, view)

    assert len(context.store.find(Notification)) == 1
