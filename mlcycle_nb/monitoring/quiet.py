"""Why nobody is to be told of an alert now: a silence, or maintenance."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from mlcycle_nb.monitoring.alerts import is_silenced
from mlcycle_nb.monitoring.maintenance import Maintenance
from mlcycle_nb.monitoring.records import Alert, Silence

if TYPE_CHECKING:
    from mlcycle_nb.store import Store, Transaction


def why_quiet(reader: Store | Transaction, alert: Alert, now: datetime) -> str:
    """Return why an alert stays untold at `now`, or the empty text."""
    silences = reader.find(Silence, name=alert.monitor, active=True)
    for silence in silences:
        if is_silenced(alert, [silence], now):
            return f"silence {silence.id} until {silence.until.isoformat(timespec='seconds')}: {silence.reason}"
    return why_maintained(reader, alert, now)


def why_maintained(reader: Store | Transaction, alert: Alert, now: datetime) -> str:
    """Return which maintenance window an alert falls into at `now`, or the empty text."""
    environment = alert.monitor.partition("/")[0]
    for one in reader.find(Maintenance, name=environment, phase="planned"):
        until = one.until(now) if one.covers(alert.monitor, alert.kind) else None
        if until is not None:
            return f"maintenance {one.id} until {until.isoformat(timespec='seconds')}: {one.reason}"
    return ""
