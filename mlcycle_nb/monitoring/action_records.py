"""What an alert did by policy: one record for each alert and action, which is how each happens at most once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from mlcycle_nb.development.records import version_subject
from mlcycle_nb.monitoring.records import Alert, Monitor
from mlcycle_nb.store import Record

if TYPE_CHECKING:
    from mlcycle_nb.store import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertAction(Record):
    """One action of one alert.

    Attributes
    ----------
    phase : {"queued", "running", "done", "refused"}
        ``queued`` also while maintenance holds it.
    versions : tuple of int
        Model versions that the alert was about when it fired.
    outcome : str
        What was done, or why it was not.
    """

    KIND: ClassVar[str] = "alert_action"

    alert: str
    monitor: str
    action: str
    versions: tuple[int, ...]
    outcome: str = ""
    ended_at: datetime | None = None

    @property
    def name(self) -> str:
        return self.monitor

    @property
    def active(self) -> bool:
        return self.phase in {"queued", "running"}

    @property
    def refers_to(self) -> tuple[str, ...]:
        model = self.monitor.rpartition("/")[2]
        return tuple(version_subject(model, number) for number in self.versions) if self.active else ()


def actor_of(alert: Alert) -> str:
    """Return who the audit trail says it was."""
    return f"supervisor for {alert.id}"


def queue_actions(transaction: Transaction, alert: Alert, monitor: Monitor, now: datetime) -> None:
    """Note the actions that the monitor's policy asks for; an alert that fires again has had its turn."""
    if monitor.phase != "running":
        return  # whoever stopped the watching wants nothing done by it
    for action in monitor.on_alert.get(alert.kind, ()):
        id = f"{alert.id}-{action}"
        if transaction.maybe(AlertAction, id) is not None:
            continue
        record = AlertAction(
            id=id,
            phase="queued",
            created_at=now,
            alert=alert.id,
            monitor=monitor.id,
            action=action,
            versions=alert.versions,
        )
        detail = {"alert": alert.id, "action": action}
        transaction.insert(record, event="action.queued", detail=detail)
