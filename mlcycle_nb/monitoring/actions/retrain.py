"""Retrain: the training job that made the troubled version runs again, as a new job, from its record."""

from __future__ import annotations

from dataclasses import replace

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.records import Service
from mlcycle_nb.errors import Refused
from mlcycle_nb.monitoring.action_records import actor_of
from mlcycle_nb.monitoring.records import Alert, Monitor


class Retrain:
    """The new job is registered and deployed by a person: what it learned is not known to be better."""

    def take(self, context: Context, monitor: Monitor, alert: Alert) -> str:
        from mlcycle_nb.development.service import ModelDevelopmentManager
        from mlcycle_nb.training.retrain import Retrainings

        acting = replace(context, actor=actor_of(alert))
        development = ModelDevelopmentManager(acting)
        version = _version(context, monitor, alert)
        run = development.get_version(f"{monitor.model}/{version}").run_id
        if run is None:
            raise Refused(f"{monitor.model}/{version} is of no run, so nothing says how it was trained")
        job = Retrainings(acting, development).begin(run, cause=alert.id)
        return f"training {job.id} runs {monitor.model}/{version} again"


def _version(context: Context, monitor: Monitor, alert: Alert) -> int:
    service = context.store.maybe(Service, monitor.id)
    if service is not None and service.stable in alert.versions:
        return int(service.stable)
    return max(alert.versions)


PLUGIN = Retrain()
