"""Takes the actions that alerts ask for: claimed first, so that none is taken twice; refused ones are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from mlcycle_nb.context import Context
from mlcycle_nb.errors import Conflict, EngineError, MLCycleError, StoreError
from mlcycle_nb.monitoring.action_records import AlertAction
from mlcycle_nb.monitoring.actions import ACTIONS
from mlcycle_nb.monitoring.quiet import why_maintained
from mlcycle_nb.monitoring.records import Alert, Monitor
from mlcycle_nb.supervisor.crash import crash_point

if TYPE_CHECKING:
    from mlcycle_nb.store import Record


@dataclass(frozen=True, slots=True)
class ActionView:
    """The alert as it is now, and the maintenance that holds its actions."""

    alert: Alert
    held: str
    stopped: bool = False


class AlertActionController:
    """queued -> running -> done or refused; an alert that is over before its turn comes takes its actions along."""

    def __init__(self, context: Context) -> None:
        self.record_type: type[Record] = AlertAction
        self._context = context

    def observe(self, record: AlertAction) -> ActionView:
        alert = self._context.store.get(Alert, record.alert)
        stopped = self._context.store.get(Monitor, record.monitor).phase != "running"
        return ActionView(alert, why_maintained(self._context.store, alert, self._context.clock.now()), stopped)

    def next_action(self, record: AlertAction, observation: ActionView, now: datetime) -> str | None:
        """Return ``take`` for what was claimed, ``drop`` or ``claim`` for what waits, nothing while it is held."""
        if record.phase == "running":
            return "take"
        if not observation.alert.open or observation.stopped:
            return "drop"
        return None if observation.held else "claim"

    def act(self, action: str, record: AlertAction, observation: ActionView) -> None:
        if action == "claim":
            with self._context.store.transaction(actor=self._context.actor) as transaction:
                transaction.update(replace(record, phase="running"), event="action.started")
            crash_point("action.after_claim")
        elif action == "drop":
            over = not observation.alert.open
            self._end(record, "refused", "the alert was over before" if over else "the monitor was stopped before")
        else:
            self._take(record, observation.alert)

    def _take(self, record: AlertAction, alert: Alert) -> None:
        monitor = self._context.store.get(Monitor, record.monitor)
        try:
            outcome = ACTIONS.load(record.action).take(self._context, monitor, alert)
        except (Conflict, StoreError, EngineError):
            raise  # somebody was first, or something is down: the loop tries again
        except MLCycleError as refusal:
            self._end(record, "refused", str(refusal))
            return
        crash_point("action.after_effect")
        self._end(record, "done", outcome)

    def _end(self, record: AlertAction, phase: str, outcome: str) -> None:
        ended = replace(record, phase=phase, outcome=outcome, ended_at=self._context.clock.now())
        detail = {"alert": record.alert, "action": record.action, "outcome": outcome}
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            transaction.update(ended, event=f"action.{phase}", detail=detail)
