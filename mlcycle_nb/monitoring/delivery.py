"""Brings alerts to people: makes the messages that are due, delivers them, and lets silences end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from mlcycle_nb.context import Context
from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.monitoring.alerts import leading, message_due, message_of, same_group, told
from mlcycle_nb.monitoring.channels import deliver, targets
from mlcycle_nb.monitoring.channels._contract import Delivery
from mlcycle_nb.monitoring.outbox import given_up, is_due, wait_seconds
from mlcycle_nb.monitoring.quiet import why_quiet
from mlcycle_nb.monitoring.records import RESOLVED, Alert, Monitor, Notification, Silence
from mlcycle_nb.store import Record, Store, Transaction
from mlcycle_nb.store.record import format_time, parse_time
from mlcycle_nb.supervisor.crash import crash_point

_SKEW = timedelta(seconds=2)
"""A message that was told later than this from now was told before the clock was set back: it counts no more."""


@dataclass(frozen=True, slots=True)
class AlertView:
    """What decides whether an alert is told now."""

    monitor: Monitor
    quiet: str  # why nobody is to be told now; empty: somebody is
    last_of_group: datetime | None


class AlertController:
    """Puts a message for each channel into the outbox when one is due: one for all alerts of a group that are."""

    record_type: type[Record] = Alert

    def __init__(self, context: Context) -> None:
        self._context = context

    def observe(self, record: Alert) -> AlertView:
        return _view(self._context.store, record, self._context.clock.now())

    def next_action(self, record: Alert, observation: AlertView, now: datetime) -> str | None:
        """Return ``tell``, ``let go`` (it ended while nobody was to hear of it), or nothing."""
        if observation.quiet:
            return "let go" if record.phase == RESOLVED else None
        due = message_due(record, observation.monitor, observation.last_of_group, False, now)
        return "tell" if due else None

    def act(self, action: str, record: Alert, observation: AlertView) -> None:
        now = self._context.clock.now()
        if action == "let go":
            with self._context.store.transaction(actor=self._context.actor) as transaction:
                detail = {"why": observation.quiet}
                transaction.update(replace(record, told_resolved=True), event="alert.silenced", detail=detail)
            return
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            # Another thread may be telling of another alert of this group: what is due is asked again in here.
            due = _due_of_group(transaction, record, now)
            if not due:
                return
            lead, *others = [transaction.update(told(one, now), event="alert.told") for one in leading(due)]
            message = message_of(lead, lead.notifications, others)
            for channel in observation.monitor.channels:
                for target in targets(channel, self._context):
                    suffix = f"{channel}-{target}" if target else channel
                    notification = Notification(
                        id=f"{message['key']}-{suffix}",
                        phase="queued",
                        created_at=now,
                        alert=lead.id,
                        monitor=lead.monitor,
                        channel=channel,
                        receiver=target,
                        message=message,
                    )
                    detail = {"channel": channel, "receiver": target}
                    transaction.insert(notification, event="notification.queued", detail=detail)
        crash_point("alert.after_queued")


def _view(reader: Store | Transaction, record: Alert, now: datetime) -> AlertView:
    monitor = reader.get(Monitor, record.monitor)
    told_at = [
        one.notified_at
        for one in _alerts_of(reader, record.monitor)
        if one.notified_at is not None and one.notified_at <= now + _SKEW and same_group(one, record, monitor)
    ]
    return AlertView(monitor, why_quiet(reader, record, now), max(told_at, default=None))


def _alerts_of(reader: Store | Transaction, monitor: str) -> list[Alert]:
    """Return the active alerts, however old, and the newest of the others."""
    return [*reader.find(Alert, name=monitor, active=True), *reader.find(Alert, name=monitor, limit=50)]


def _due_of_group(transaction: Transaction, record: Alert, now: datetime) -> list[Alert]:
    view = _view(transaction, record, now)
    return [
        one
        for one in transaction.find(Alert, name=record.monitor, active=True)
        if same_group(one, record, view.monitor)
        and message_due(one, view.monitor, view.last_of_group, bool(why_quiet(transaction, one, now)), now)
    ]


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
        receivers = targets(record.channel, self._context)
        if not record.receiver and receivers != ("",):
            self._split(record, receivers)
            return
        crash_point("notification.before_delivery")
        try:
            # The notification's id carries the channel; receivers are given the message's own key.
            delivery = deliver(self._context, record)
        except Exception as failure:  # a plug-in may raise anything, and its text may hold secrets
            said = str(failure) if isinstance(failure, MLCycleError) else type(failure).__name__
            delivery = Delivery(delivered=False, retry=True, detail=said)
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

    def _split(self, record: Notification, receivers: Sequence[str]) -> None:
        """Make one message a receiver of one that was queued while nobody could say who they are."""
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            for one in receivers:
                own = replace(record, id=f"{record.id}-{one}", receiver=one, version=0)
                transaction.insert(own, event="notification.queued", detail={"receiver": one})
            transaction.delete(record, event="notification.split", detail={"receivers": list(receivers)})

    def _end(self, record: Notification) -> None:
        detail = {"channel": record.channel, "receiver": record.receiver, "detail": record.detail}
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
