"""The transaction that begins a rollout: one a service, the loser is told who holds it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.records import (
    DeploymentStrategy,
    Gateway,
    Revision,
    Rollout,
    RolloutPolicy,
    Service,
    revision_id,
    service_id,
)
from mlcycle_nb.deployment.revisions import IDLE
from mlcycle_nb.deployment.shadow import NOTHING_TO_COMPARE
from mlcycle_nb.errors import Conflict, Refused
from mlcycle_nb.store import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody wants to be deployed; ``overridden`` says which gates were forced."""

    environment: str
    model: str
    target: int
    digest: str
    strategy: DeploymentStrategy
    replicas: int
    policy: RolloutPolicy
    supersede: bool = False
    reason: str = ""
    overridden: str = ""
    runtime: str = ""


def begin(context: Context, wish: Wish) -> Rollout:
    """Store the rollout that a wish asks for; the same wish again gives the one that runs.

    Raises
    ------
    Conflict
        When another rollout of the service runs; names it, its holder and its step.
    Refused
        When the version is stable already.
    """
    now = context.clock.now()
    with context.store.transaction(actor=context.actor) as transaction:
        declare_gateway(transaction, wish.environment, now)
        service = _service(transaction, wish, now)
        earlier = transaction.find(Rollout, name=service.id)
        running = [one for one in earlier if not one.ended]
        if not wish.supersede:
            for one in running:
                same = (one.target, one.strategy, one.policy, one.runtime)
                if same == (wish.target, wish.strategy, wish.policy, wish.runtime):
                    return one  # the same cell again attaches, and never starts a second one
            if running:
                raise held(running[-1])
        if not running and service.stable == wish.target:
            raise Refused(f"{wish.model}/{wish.target} is stable in {wish.environment} already", remedy="nothing to do")
        _refuse_another_runtime(transaction, wish)
        if wish.strategy is DeploymentStrategy.SHADOW and service.stable is None:
            raise Refused(f"{service.id}: {NOTHING_TO_COMPARE}", remedy="deploy a first version with another strategy")
        record = _record(transaction, wish, service, context.actor, now, number=len(earlier) + 1)
        if running:
            after = _supersede(transaction, running, context.actor, now)
            record = record.moved(now, "queued", "waits until the rollout before has gone back", after=after)
        if wish.overridden:
            record = record.told(now, f"forced past the gates ({wish.overridden}): {wish.reason}")
            transaction.note(
                "gate.overridden",
                subject=f"model:{record.reference}",
                detail={"environment": wish.environment, "gates": wish.overridden, "rollout": record.id},
                reason=wish.reason,
            )
        detail = {
            "target": wish.target,
            "strategy": wish.strategy,
            "replicas": wish.replicas,
            "policy": wish.policy,
            "digest": wish.digest,
            "runtime": wish.runtime,
        }
        return transaction.insert(record, event="rollout.created", detail=detail, reason=wish.reason)


def declare_gateway(transaction: Transaction, environment: str, now: datetime) -> None:
    """Have the environment's gateway run."""
    if transaction.maybe(Gateway, environment) is None:
        transaction.insert(Gateway(id=environment, phase="running", created_at=now), event="gateway.declared")


def held(running: Rollout) -> Conflict:
    """Return the refusal that names who holds a service."""
    return Conflict(
        f"rollout {running.id} of {running.reference} by {running.actor} (pid {running.pid}) is {running.place}",
        remedy="wait for it, abort it, or use --supersede",
    )


def _service(transaction: Transaction, wish: Wish, now: datetime) -> Service:
    id = service_id(wish.environment, wish.model)
    found = transaction.maybe(Service, id)
    if found is not None:
        return found
    fresh = Service(id=id, phase="serving", created_at=now, environment=wish.environment, model=wish.model)
    return transaction.insert(fresh, event="service.created")


def _record(
    transaction: Transaction, wish: Wish, service: Service, actor: str, now: datetime, *, number: int
) -> Rollout:
    base = service.stable
    place = f", in environment {wish.runtime}" if wish.runtime else ""
    sized = None if base is None else transaction.maybe(Revision, revision_id(wish.environment, wish.model, base))
    return Rollout(
        id=f"{service.id}/r{number}",
        phase="preparing",
        created_at=now,
        environment=wish.environment,
        model=wish.model,
        target=wish.target,
        digest=wish.digest,
        strategy=wish.strategy,
        replicas=wish.replicas,
        policy=wish.policy,
        actor=actor,
        pid=os.getpid(),
        base=base,
        base_replicas=0 if sized is None else sized.replicas,
        phase_since=now,
        runtime=wish.runtime,
    ).told(now, f"{wish.strategy} of {wish.model}/{wish.target} asked for by {actor}{place}")


def _refuse_another_runtime(transaction: Transaction, wish: Wish) -> None:
    """Replicas of one version that still run cannot change the environment that they run in."""
    found = transaction.maybe(Revision, revision_id(wish.environment, wish.model, wish.target))
    if found is not None and found.phase not in IDLE and found.runtime != wish.runtime:
        where = f"environment {found.runtime}" if found.runtime else "the workspace's own interpreter"
        raise Refused(
            f"replicas of {wish.model}/{wish.target} in {wish.environment} still run in {where}",
            remedy="wait until their warm time is over, or deploy it there again",
        )


def _supersede(transaction: Transaction, running: Sequence[Rollout], actor: str, now: datetime) -> str:
    """Have the running rollouts go back; return the one that holds the service, to begin after it."""
    holder, why = "", f"superseded by {actor}"
    for one in running:
        if one.phase == "queued":
            transaction.update(one.moved(now, "aborted", why, reason=why), event="rollout.aborted", reason=why)
            continue
        holder = one.id
        if one.phase not in ("aborting", "concluding"):
            leaving = one.moved(now, "aborting", why, reason=why, ends_as="aborted", resume_to="")
            transaction.update(leaving, event="rollout.aborting", reason=why)
    return holder
