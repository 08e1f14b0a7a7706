"""Brings alerts to people: makes the messages that are due, delivers them, and lets silences end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from mlcycle_nb.context import Context
from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.monitoring.alerts import is_silenced, message_due, message_of, told
from mlcycle_nb.monitoring.channels import CHANNELS
from mlcycle_nb.monitoring.channels._contract import Delivery
from mlcycle_nb.monitoring.outbox import given_up, is_due, wait_seconds
from mlcycle_nb.monitoring.records import RESOLVED, Alert, Monitor, Notification, Silence
from mlcycle_nb.store import Record
from mlcycle_nb.store.record import format_time, parse_time
from mlcycle_nb.supervisor.crash import crash_point


@dataclass(frozen=True, slots=True)
class AlertView:
    """What decides whether an alert is told now."""

    monitor: Monitor
    silenced: bool
    last_of_group: datetime | None


class AlertController:
    """Puts a message for each channel into the outbox when one is due."""

    record_type: type[Record] = Alert

    def __init__(self, context: Context) -> None:
        self._context = context

    def observe(self, record: Alert) -> AlertView:
        store = self._context.store
        silences = store.find(Silence, name=record.monitor, active=True)
        of_group = [
            one.notified_at
            for one in store.find(Alert, name=record.monitor, limit=50)
            if one.kind == record.kind and one.notified_at is not None
        ]
        return AlertView(
            store.get(Monitor, record.monitor),
            is_silenced(record, silences, self._context.clock.now()),
            max(of_group, default=None),
        )

    def next_action(self, record: Alert, observation: AlertView, now: datetime) -> str | None:
        """Return ``tell``, ``let go`` (it ended while nobody was to hear of it), or nothing."""
        if observation.silenced:
            return "let go" if record.phase == RESOLVED else None
        due = message_due(record, observation.monitor, observation.last_of_group, observation.silenced, now)
        return "tell" if due else None

    def act(self, action: str, record: Alert, observation: AlertView) -> None:
        now = self._context.clock.now()
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            if action == "let go":
                transaction.update(replace(record, told_resolved=True), event="alert.silenced")
                return
            after = transaction.update(told(record, now), event="alert.told")
            message = message_of(after, after.notifications)
            for channel in observation.monitor.channels:
                notification = Notification(
                    id=f"{message['key']}-{channel}",
                    phase="queued",
                    created_at=now,
                    alert=record.id,
                    monitor=record.monitor,
                    channel=channel,
                    message=message,
                )
                transaction.insert(notification, event="notification.queued", detail={"channel": channel})
        crash_point("alert.after_queued")


class NotificationController:
    """Delivers the outbox: each message at least once, always under the same key."""

    record_type: type[Record] = Notification

    def __init__(self, context: Context) -> None:
        self._context = context

    def observe(self, record: Notification) -> dict[str, Any]:
        return self._context.store.observed(Notification, record.id)

    def next_action(self, record: Notification, observation: dict[str, Any], now: datetime) -> str | None:
        next_at = observation.get("next_at")
        return "deliver" if is_due(parse_time(next_at) if next_at else None, now) else None

    def act(self, action: str, record: Notification, observation: dict[str, Any]) -> None:
        crash_point("notification.before_delivery")
        try:
            # The notification's id carries the channel; receivers are given the message's own key.
            delivery = CHANNELS.load(record.channel).deliver(self._context, str(record.message["key"]), record.message)
        except MLCycleError as failure:
            delivery = Delivery(delivered=False, retry=True, detail=str(failure))
        crash_point("notification.after_delivery")
        now = self._context.clock.now()
        if delivery.delivered:
            self._end(replace(record, phase="delivered", delivered_at=now, detail=delivery.detail))
        elif not delivery.retry or given_up(record.created_at, now):
            self._end(replace(record, phase="dead", detail=delivery.detail))
        else:
            attempts = int(observation.get("attempts", 0)) + 1
            wait = wait_seconds(record.id, attempts, delivery.retry_after_seconds)
            self._context.store.observe(
                Notification,
                record.id,
                attempts=attempts,
                detail=delivery.detail,
                next_at=format_time(now + timedelta(seconds=wait)),
            )

    def _end(self, record: Notification) -> None:
        detail = {"channel": record.channel, "detail": record.detail}
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            transaction.update(record, event=f"notification.{record.phase}", detail=detail)


class SilenceController:
    """Ends silences when their time is over."""

    record_type: type[Record] = Silence

    def __init__(self, context: Context) -> None:
        self._context = context

    def observe(self, record: Silence) -> None:
        return None

    def next_action(self, record: Silence, observation: None, now: datetime) -> str | None:
        return "expire" if now >= record.until else None

    def act(self, action: str, record: Silence, observation: None) -> None:
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            transaction.update(replace(record, phase="expired"), event="silence.expired")
