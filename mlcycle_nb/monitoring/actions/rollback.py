"""Roll back: a rollout of the troubled version is aborted; a troubled stable version gives way to the one before."""

from __future__ import annotations

from dataclasses import replace

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.records import DeploymentStrategy, Rollout, Service
from mlcycle_nb.deployment.verbs import abort, change_rollout
from mlcycle_nb.errors import Refused
from mlcycle_nb.monitoring.action_records import AlertAction, actor_of
from mlcycle_nb.monitoring.records import OPEN_PHASES, Alert, Monitor


class Rollback:
    """Only away from a version that the alert names, and never to one that an alert was about."""

    def take(self, context: Context, monitor: Monitor, alert: Alert) -> str:
        acting = replace(context, actor=actor_of(alert))
        rollouts = context.store.find(Rollout, name=monitor.id)
        done = next((one for one in rollouts if one.actor == acting.actor or alert.id in one.reason), None)
        if done is not None:
            return _said(done)
        service = context.store.maybe(Service, monitor.id)
        if service is None or service.stable is None:
            raise Refused("nothing is deployed", value=monitor.id)
        running = next((one for one in rollouts if not one.ended and one.phase != "queued"), None)
        if running is not None and running.strategy is not DeploymentStrategy.SHADOW:  # which moves nothing
            if running.target not in alert.versions:
                raise Refused(f"rollout {running.id} of another version runs", value=running.reference)
            return _said(change_rollout(acting, running, abort, f"{alert.kind} {alert.id}"))
        return _said(self._back(acting, monitor, alert, service))

    def _back(self, acting: Context, monitor: Monitor, alert: Alert, service: Service) -> Rollout:
        from mlcycle_nb.deployment.service import ModelDeploymentManager
        from mlcycle_nb.development.service import ModelDevelopmentManager
        from mlcycle_nb.validation.service import ModelValidator

        if service.stable not in alert.versions:
            raise Refused(
                f"the alert is not about the stable version {service.stable}", value=", ".join(map(str, alert.versions))
            )
        target = service.rollback_target
        # Two versions that each send the other away would else change places for ever.
        if target is not None and target in _troubled(acting, monitor, alert):
            raise Refused(f"an alert was about version {target} too", remedy="roll back by hand with --to, or retrain")
        development = ModelDevelopmentManager(acting)
        deployment = ModelDeploymentManager(acting, development, ModelValidator(acting, development))
        reason = f"{alert.kind} {alert.id}: {alert.summary}"[:500]
        handle = deployment.rollback_deployment(monitor.model, monitor.environment, reason=reason)
        return acting.store.get(Rollout, handle.id)


def _troubled(context: Context, monitor: Monitor, alert: Alert) -> set[int]:
    """Return the versions that this and other open alerts are about, and those that an alert had rolled back."""
    others = context.store.find(Alert, name=monitor.id, phase=OPEN_PHASES)
    found = {version for one in (alert, *others) for version in one.versions}
    for action in context.store.find(AlertAction, name=monitor.id, phase="done"):
        if action.action == "rollback":
            found |= set(action.versions)
    return found


def _said(rollout: Rollout) -> str:
    return f"rollout {rollout.id} of {rollout.reference} is {rollout.phase}"


PLUGIN = Rollback()
