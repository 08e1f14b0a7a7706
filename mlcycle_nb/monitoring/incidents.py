"""Stores what evidence makes of alerts: the open alert of a monitor and kind, moved by the pure state machine."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from mlcycle_nb.context import Context
from mlcycle_nb.monitoring.action_records import queue_actions
from mlcycle_nb.monitoring.alerts import Evidence, advance, may_reopen, reopened
from mlcycle_nb.monitoring.records import FIRING, NO_DATA, OPEN_PHASES, PENDING, RESOLVED, Alert, Monitor
from mlcycle_nb.monitoring.windows import Streak
from mlcycle_nb.supervisor.crash import crash_point

if TYPE_CHECKING:
    from mlcycle_nb.store import Transaction

_EVENTS = {PENDING: "alert.pending", FIRING: "alert.firing", RESOLVED: "alert.resolved"}


def record_evidence(context: Context, monitor: Monitor, evidence: Evidence) -> Alert | None:
    """Apply evidence to the open alert of this monitor and kind; return the alert when it changed."""
    with context.store.transaction(actor=context.actor) as transaction:
        open_alerts = transaction.find(Alert, name=monitor.id, phase=OPEN_PHASES)
        alert = next((one for one in open_alerts if one.kind == evidence.kind), None)
        new_id = f"alert-{uuid.uuid4().hex[:12]}"
        after = advance(alert, evidence, monitor, context.clock.now(), new_id)
        if after is None:
            return None
        began = after.phase == FIRING and (alert is None or alert.phase != FIRING)
        ended = _untold_end(transaction, monitor, evidence.kind) if began else None
        if ended is not None:
            if alert is not None:  # what was pending is the earlier alert once more
                over = replace(alert, phase=RESOLVED, resolved_at=context.clock.now())
                transaction.update(over, event="alert.merged", detail={"into": ended.id})
            alert, after = ended, reopened(ended, after)
        detail = {"kind": after.kind, "monitor": monitor.id, "subjects": after.subjects, "summary": after.summary}
        if alert is None:
            stored = transaction.insert(after, event=_EVENTS[after.phase], detail=detail)
        else:
            event = _EVENTS[after.phase] if after.phase != alert.phase else "alert.widened"
            event = "alert.reopened" if alert.phase == RESOLVED else event
            stored = transaction.update(after, event=event, detail=detail)
        if began:
            # With the alert in one transaction: a supervisor that dies leaves both, or neither.
            queue_actions(transaction, stored, monitor, context.clock.now())
    if stored.phase == FIRING:
        crash_point("alert.after_firing")
    return stored


def _untold_end(transaction: Transaction, monitor: Monitor, kind: str) -> Alert | None:
    ended = transaction.find(Alert, name=monitor.id, phase=RESOLVED, active=True)
    return next((one for one in ended if may_reopen(one, kind)), None)


def record_no_data(context: Context, monitor: Monitor, missing: bool, requests: int) -> Alert | None:
    """Raise or end the alert that requests are answered and none of them is logged."""
    streak = Streak(bad=monitor.confirm_windows) if missing else Streak(clear=monitor.clear_windows)
    evidence = Evidence(
        kind=NO_DATA,
        version=0,
        state="bad" if missing else "clear",
        subjects=("prediction log",),
        summary=f"{requests} requests in {monitor.stale_seconds:.0f} s, and no row in the prediction log",
        streaks={0: streak},
    )
    return record_evidence(context, monitor, evidence)
