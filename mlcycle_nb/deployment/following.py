"""What a person may have follow a shadow: a canary of the same version, when the shadow was good."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mlcycle_nb.deployment import verbs
from mlcycle_nb.deployment.policy import METRICS
from mlcycle_nb.deployment.records import Rollout, RolloutPolicy, Service
from mlcycle_nb.deployment.shadow import why_no_canary
from mlcycle_nb.errors import Refused
from mlcycle_nb.outcomes import Outcome, overall
from mlcycle_nb.references import format_duration

if TYPE_CHECKING:
    from mlcycle_nb.context import Context


def check_shadow(context: Context, record: Rollout) -> None:
    """Refuse, with the reason, when a canary may not follow this shadow.

    Raises
    ------
    Refused
        When it has not passed, or what it compared with is no longer stable.
    """
    remedy = f"%deploy {record.reference} --env {record.environment} --canary begins one all the same"
    if record.ended or record.phase == "concluding":
        service = context.store.get(Service, record.service_id)
        seen = record if record.ended else record.moved(record.phase_since, record.ends_as)
        if why := why_no_canary(seen, service.stable):
            raise Refused(f"no canary follows: {why}", remedy=remedy)
        return
    if record.phase not in ("progressing", "paused"):
        raise Refused(f"no canary follows: the shadow {record.id} is {record.phase}", remedy=remedy)
    metrics = (context.store.observed(Rollout, record.id).get("judgement") or {}).get("metrics", ())
    deciding = [m for m in metrics if m["mode"] == "required" or (m["mode"] == "optional" and m["outcome"] == "failed")]
    if overall(Outcome(m["outcome"]) for m in deciding) is not Outcome.PASSED:
        why = "; ".join(m["reason"] for m in deciding if m["outcome"] != "passed") or "nothing was compared yet"
        raise Refused(f"no canary follows: the shadow {record.id} has not passed yet: {why}", remedy=remedy)


def conclude(context: Context, record: Rollout, reason: str) -> None:
    """Have a shadow that still runs end as passed; one that is ending or has ended stays as it is."""
    if record.phase in ("progressing", "paused"):
        verbs.change_rollout(context, record, verbs.conclude, reason)


def canary_options(record: Rollout) -> dict[str, Any]:
    """Return the options of a canary that tolerates what the shadow tolerated."""
    policy: RolloutPolicy = record.policy
    tolerated = ("max_disagreement", "max_error_increase", "max_slowdown", "max_shift", "max_accuracy_loss")
    return {
        **{name: getattr(policy, name) for name in tolerated},
        "replicas": record.replicas,
        "min_requests": policy.min_requests,
        "require": tuple(one for one in METRICS if one not in (*policy.optional, *policy.watched)),
        "optional": policy.optional,
        "watch": policy.watched,
        "warm": format_duration(timedelta(seconds=policy.warm_seconds)),
    }
