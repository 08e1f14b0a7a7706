"""What to do next with one retirement: a pure function of the record, what was seen, and the time."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from mlcycle_nb.retirement.consumers import merge, unacknowledged
from mlcycle_nb.retirement.handover import missing_notes
from mlcycle_nb.retirement.records import (
    PAUSED,
    WHOLE,
    Address,
    RampStep,
    Retirement,
)
from mlcycle_nb.retirement.schedule import headers
from mlcycle_nb.retirement.world import Caller, same_in_force

Verb = Literal[
    "take",  # store one traffic step, then ask the gateway for it
    "apply",  # the address is not what the last step says: a crash came between, or somebody changed it
    "redirect",  # the retiring version has lost its replicas: the replacement answers alone
    "confirm",  # the step was seen in force
    "pause",
    "resume",
    "move_aliases",
    "hand_over",  # traffic is done; the document and its notes are next
    "begin_archive",
    "write_archive",
    "verify_archive",
    "entomb",  # stop replicas, move the package aside
    "delete",
    "complete",
    "undo",  # bring back what was before
    "finish_undo",
    "tell",  # send what is in the outbox
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing to do; `position` names the step, `reasons` say why a ramp is paused."""

    verb: Verb
    position: int = -1
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The world as far as one retirement concerns it."""

    declared: Address = field(default_factory=Address)
    in_force: Address = field(default_factory=Address)
    old_running: bool = False
    stable: int | None = None
    replacement_healthy: int = 0
    callers: tuple[Caller, ...] = ()
    aliases: dict[str, int] | None = field(default_factory=dict)  # None: not looked at
    tags: dict[str, str] = field(default_factory=dict)
    package_present: bool = True


def next_action(record: Retirement, seen: Seen, now: datetime) -> Action | None:
    """Return what to do next, or None when there is nothing to do now.

    Messages come last: a channel that does not answer must not hold up anything else.
    """
    action = _next_of_phase(record, seen, now)
    if action is None and any(notice.pending for notice in record.notices):
        return Action(verb="tell")
    return action


def _next_of_phase(record: Retirement, seen: Seen, now: datetime) -> Action | None:
    match record.phase:
        case "ramping" | "paused":
            return _next_of_ramp(record, seen, now)
        case "handover":
            return None if missing_notes(record.notes) else Action(verb="begin_archive")
        case "archiving":
            if record.archive is None:
                return Action(verb="write_archive")
            return Action(verb="verify_archive" if record.archive.verified_at is None else "entomb")
        case "clearing":
            if record.deleted_at is not None:
                return Action(verb="complete")
            return Action(verb="delete") if record.delete_at is not None and now >= record.delete_at else None
        case "cancelling" | "restoring":
            if difference(record, seen):
                return Action(verb="undo")
            return Action(verb="finish_undo") if _back_in_force(record, seen) else None
        case _:
            return None


def _next_of_ramp(record: Retirement, seen: Seen, now: datetime) -> Action | None:
    step = record.next_step
    if seen.aliases is None and step is not None and now >= step.due_at:
        return None  # it became due between the look and this decision: look again
    found = blockers(record, seen, now)
    if found:
        # The same reasons again are no news: one pause, one audit entry.
        return None if record.phase == PAUSED and found == record.blockers else Action(verb="pause", reasons=found)
    if record.phase == PAUSED:
        return Action(verb="resume")
    last = _last_taken(record)
    if last is not None:
        if last.split and not seen.old_running and record.replacement and last.split != _alone(record):
            return Action(verb="redirect", position=last.position)
        wanted = wanted_address(record, last)
        if seen.declared != wanted:
            return Action(verb="apply", position=last.position)
        if not same_in_force(wanted, seen.in_force, record.model_version, running=seen.old_running):
            return None  # the gateway is being changed, or starts again: nothing counts until it answers as asked
        if last.confirmed_at is None:
            return Action(verb="confirm", position=last.position)
    if step is None:
        return Action(verb="hand_over")
    if step.kind == "gone" and moving_aliases(record, seen):
        return Action(verb="move_aliases") if now >= step.due_at else None
    return Action(verb="take", position=step.position) if now >= step.due_at else None


def is_settled(record: Retirement, now: datetime) -> bool:
    """Return whether nothing is due: it waits for a later time or for people, or it has ended."""
    match record.phase:
        case "ramping":
            step = record.next_step
            return step is not None and now < step.due_at and record.unconfirmed_step is None
        case "handover":
            return bool(missing_notes(record.notes))
        case "clearing":
            return record.deleted_at is None and record.delete_at is not None and now < record.delete_at
        case "archiving" | "cancelling" | "restoring":
            return False
        case _:
            return True


def blockers(record: Retirement, seen: Seen, now: datetime) -> tuple[str, ...]:
    """Return why the ramp may not go on, in words; empty when it may.

    The replacement's health counts all the time that it answers for the retiring version; the rest only when a step
    beyond the announcement is due, and the one before it was seen in force.
    """
    found: list[str] = []
    step = record.next_step
    if step is None:
        return ()
    due = step.kind != "announce" and now >= step.due_at and record.unconfirmed_step is None
    answers_already = record.share < WHOLE or not seen.old_running
    if record.replacement is not None and (due or answers_already) and seen.replacement_healthy < 1:
        found.append(f"{record.replacement} has no healthy replica in {record.environment}")
    if due:
        if seen.stable == record.model_version:
            found.append(f"{record.reference} still is the stable version of {record.service}")
        open_names = unacknowledged(merge(record.consumers, seen.callers), now)
        if open_names:
            found.append(f"not acknowledged by {', '.join(open_names)}")
        if step.kind == "gone":
            held = sorted(
                a
                for a, v in (seen.aliases or {}).items()
                if v == record.model_version and a not in record.moves_aliases
            )
            if held:
                found.append(f"alias {', '.join(held)} names {record.reference}")
    return tuple(found)


def moving_aliases(record: Retirement, seen: Seen) -> tuple[str, ...]:
    """Return the aliases that still have to move to the replacement."""
    return tuple(alias for alias in record.moves_aliases if (seen.aliases or {}).get(alias) == record.model_version)


def split_of(record: Retirement, step: RampStep, *, old_running: bool) -> tuple[tuple[int, int], ...]:
    """Return who answers the address from this step on; a version without replicas keeps no share."""
    replacement = record.replacement_version
    share = step.share if old_running else 0
    if step.kind == "gone":
        return ()
    if replacement is None:
        return ((record.model_version, WHOLE),) if old_running else ()
    if share == WHOLE:
        return ((record.model_version, WHOLE),)
    if share == 0:
        return ((replacement, WHOLE),)
    return ((record.model_version, share), (replacement, WHOLE - share))


def _alone(record: Retirement) -> tuple[tuple[int, int], ...]:
    version = record.replacement_version
    return () if version is None else ((version, WHOLE),)


def wanted_address(record: Retirement, step: RampStep) -> Address:
    """Return what the address has to be once this step, with the split stored in it, was taken."""
    assert step.taken_at is not None  # only a step that was taken has a split
    announced = record.started_at or step.taken_at
    if step.kind == "gone" or not step.split:
        return Address(planned=True, gone=True, successor=record.replacement)
    said = headers(record.model, record.replacement, announced, record.gone_at or step.taken_at)
    return Address(planned=True, split=step.split, headers=said)


def difference(record: Retirement, seen: Seen) -> tuple[str, ...]:
    """Return what differs from the recorded state before, line by line; empty when all is back."""
    before = record.before
    if before is None:
        return ()
    lines, aliases = [], seen.aliases or {}
    if seen.declared != before.address:
        lines.append(f"address: {seen.declared} instead of {before.address}")
    for alias, version in sorted(before.aliases.items()):
        if alias in record.moves_aliases and aliases.get(alias) != version:
            lines.append(f"alias {alias}: {aliases.get(alias)} instead of {version}")
    for tag in OUR_TAGS:
        if seen.tags.get(tag) != before.tags.get(tag):
            lines.append(f"tag {tag}: {seen.tags.get(tag)} instead of {before.tags.get(tag)}")
    if before.running and not seen.old_running:
        lines.append(f"{record.reference} does not run")
    if not seen.package_present:
        lines.append("the package is not in the store")
    return tuple(lines)


OUR_TAGS = ("mlcycle.retirement", "mlcycle.retired_at", "mlcycle.successor")
"""Tags that a retirement writes on the version."""


def _back_in_force(record: Retirement, seen: Seen) -> bool:
    before = record.before
    if before is None:
        return True
    return same_in_force(before.address, seen.in_force, record.model_version, running=before.running)


def _last_taken(record: Retirement) -> RampStep | None:
    taken = [step for step in record.steps if step.taken_at is not None]
    return taken[-1] if taken else None
