"""Pause: the service's running rollout keeps its present weights until somebody resumes it."""

from __future__ import annotations

from dataclasses import replace

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.records import DeploymentStrategy, Rollout
from mlcycle_nb.deployment.verbs import change_rollout, pause
from mlcycle_nb.errors import Refused
from mlcycle_nb.monitoring.action_records import actor_of
from mlcycle_nb.monitoring.records import Alert, Monitor


class Pause:
    """Whatever the alert is about: while something is wrong, nothing new is rolled out."""

    def take(self, context: Context, monitor: Monitor, alert: Alert) -> str:
        running = [one for one in context.store.find(Rollout, name=monitor.id) if not one.ended]
        holder = next((one for one in running if one.phase != "queued"), None)
        if holder is None:
            raise Refused("no rollout of this service runs", value=monitor.id)
        if holder.strategy is DeploymentStrategy.ROLLBACK:
            raise Refused(f"rollout {holder.id} is on its way back")
        if any(alert.id in event.text for event in holder.history):
            return f"rollout {holder.id} was paused"
        if holder.phase == "paused":
            raise Refused(f"rollout {holder.id} is paused already")
        acting = replace(context, actor=actor_of(alert))
        change_rollout(acting, holder, pause, f"{alert.kind} {alert.id}")
        return f"rollout {holder.id} was paused"


PLUGIN = Pause()
