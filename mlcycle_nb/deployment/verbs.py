"""What a person may do to a running rollout, and how the change is stored beside the supervisor's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.records import DeploymentStrategy, Rollout
from mlcycle_nb.deployment.shadow import concluded
from mlcycle_nb.errors import Conflict, InvalidInput, NotFound, Refused
from mlcycle_nb.outcomes import Outcome

_TRIES = 8
Change = Callable[[Rollout, datetime, str], Rollout]


def promote(record: Rollout, now: datetime, reason: str) -> Rollout:
    """Skip the remaining steps."""
    if record.phase == "promoting":
        return record
    if record.phase == "aborting":
        raise Refused(f"rollout {record.id} is {record.phase}: too late to promote", remedy="deploy the version again")
    if record.phase not in ("progressing", "paused") or record.resume_to == "preparing":
        raise Refused(
            f"rollout {record.id} is {record.phase}; its replicas are not ready yet", remedy="wait until it progresses"
        )
    return record.moved(now, "promoting", "promoted by hand", reason=reason, resume_to="")


def abort(record: Rollout, now: datetime, reason: str) -> Rollout:
    """Begin the way back."""
    why = reason or "aborted by hand"
    if record.phase == "aborting":
        return record
    if record.phase == "concluding":
        raise Refused(f"rollout {record.id} is {record.phase} already: its copies end", remedy="wait a moment")
    if record.phase == "queued":
        return record.moved(now, "aborted", why, reason=why)
    return record.moved(now, "aborting", why, reason=why, ends_as="aborted", resume_to="")


def pause(record: Rollout, now: datetime, reason: str) -> Rollout:
    """Keep the present weights."""
    if record.phase == "paused":
        return record
    if record.phase not in ("preparing", "progressing"):
        raise Refused(f"rollout {record.id} is {record.phase}: too late to pause", remedy="abort it instead")
    return record.moved(now, "paused", f"paused{f': {reason}' if reason else ''}", resume_to=record.phase)


def resume(record: Rollout, now: datetime, reason: str) -> Rollout:
    """Go on; the present step begins anew."""
    if record.phase != "paused":
        raise Refused(f"rollout {record.id} is {record.phase}, not paused")
    return record.moved(now, record.resume_to, "resumed", resume_to="", in_force_since=None)


def conclude(record: Rollout, now: datetime, reason: str) -> Rollout:
    """End a shadow as passed, before its time."""
    if record.phase not in ("progressing", "paused"):
        raise Refused(f"the shadow {record.id} is {record.phase}", remedy="wait until it has compared something")
    return concluded(record, now, Outcome.PASSED, f"promoted by hand{f': {reason}' if reason else ''}")


_EVENTS: dict[Change, str] = {
    promote: "promoted_by_hand",
    abort: "aborting",
    pause: "paused",
    resume: "resumed",
    conclude: "concluding",
}


def change_rollout(context: Context, record: Rollout, change: Change, reason: str) -> Rollout:
    """Store a change of a rollout that the supervisor may be changing at the same time."""
    for _ in range(_TRIES):
        if record.ended:
            raise Refused(f"rollout {record.id} has ended: {record.phase}", remedy=record.reason)
        changed = change(record, context.clock.now(), reason)
        if changed == record:
            return record
        try:
            with context.store.transaction(actor=context.actor) as transaction:
                return transaction.update(changed, event=f"rollout.{_EVENTS[change]}", reason=reason)
        except Conflict:
            time.sleep(0.02)  # the supervisor was first: read what it made of it
            record = context.store.get(Rollout, record.id)
    raise Conflict(f"rollout {record.id} changes all the time", remedy="try again")


def find_shadow(context: Context, text: str | None, environment: str) -> Rollout | None:
    """Return the shadow that was the last rollout of the service that a text names, or of the only one."""
    newest: dict[str, Rollout] = {}
    for one in context.store.find(Rollout):
        newest.setdefault(one.service_id, one)
    found = [
        one
        for one in newest.values()
        if one.strategy is DeploymentStrategy.SHADOW
        and (not text or text in (one.service_id, one.model, one.reference))
        and (not environment or one.environment == environment)
    ]
    return found[0] if len(found) == 1 else None


def find_rollout(context: Context, text: str | None, environment: str) -> Rollout:
    """Return the rollout that an id, a service, a model or nothing at all names."""
    store = context.store
    if text and (exact := store.maybe(Rollout, text)) is not None:
        return exact
    running = [one for one in store.find(Rollout, active=True) if not one.ended]
    if text:
        running = [one for one in running if text in (one.service_id, one.model, one.reference)]
    if environment:
        running = [one for one in running if one.environment == environment]
    if len(running) == 1:
        return running[0]
    if not running:
        known = ", ".join(f"{one.id} ({one.phase})" for one in store.find(Rollout, limit=5)) or "none yet"
        raise NotFound("no such rollout is running", value=text or "", remedy=f"the last ones: {known}")
    listed = ", ".join(one.id for one in running)
    raise InvalidInput("several rollouts run", value=text or "", remedy=f"say which: {listed}")
