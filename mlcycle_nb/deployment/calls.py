"""Who calls a model right now: what the supervisor has counted, and what stands in the gateway's log since."""

from __future__ import annotations

from datetime import UTC, datetime

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.records import Gateway
from mlcycle_nb.deployment.traffic import Caller, add_callers, read_callers


def current_callers(context: Context, environment: str, model: str, version: int | None) -> list[Caller]:
    """Return the callers of a model, or of one version of it, the busiest first.

    The supervisor counts about once a second; a retirement that is planned in between must not miss somebody.
    """
    from mlcycle_nb.serving.gateway import Gateway as Envoy

    tail = context.store.observed(Gateway, environment).get("tail") or {"position": None, "callers": {}}
    batch = Envoy(context, environment).access_log.read(tail["position"])
    shift = context.clock.now() - datetime.now(UTC)
    return read_callers(add_callers(tail["callers"], batch.rows, shift), model, version)
