"""Who depends on the version, from evidence, and whether they know that it ends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from mlcycle_nb.errors import InvalidInput, NotFound, did_you_mean
from mlcycle_nb.retirement.records import ConsumerRecord, ConsumerState
from mlcycle_nb.retirement.world import Caller

ACTIVE_WINDOW = timedelta(days=30)
"""A consumer that named the version within this time still depends on it."""


def merge(known: Iterable[ConsumerRecord], callers: Iterable[Caller]) -> tuple[ConsumerRecord, ...]:
    """Return what is known with the newest counts; who is new is open, and nobody is ever dropped."""
    merged = {consumer.name: consumer for consumer in known}
    for caller in callers:
        before = merged.get(caller.name)
        if before is None:
            before = ConsumerRecord(
                name=caller.name, requests=0, pinned=0, first_seen=caller.first_seen, last_seen=caller.last_seen
            )
        merged[caller.name] = replace(
            before,
            requests=caller.requests,
            pinned=caller.pinned,
            first_seen=caller.first_seen,
            last_seen=caller.last_seen,
            last_pinned=caller.last_pinned,
        )
    return tuple(merged[name] for name in sorted(merged))


def is_active(consumer: ConsumerRecord, now: datetime) -> bool:
    """Return whether it depends on the version: it named the version within `ACTIVE_WINDOW`.

    Who calls the service's default address follows the service. A last call in the future, after a clock was set
    back, counts.
    """
    return consumer.last_pinned is not None and now - consumer.last_pinned <= ACTIVE_WINDOW


def unacknowledged(consumers: Iterable[ConsumerRecord], now: datetime) -> list[str]:
    """Return the active consumers who neither acknowledged nor were waived."""
    return [one.name for one in consumers if one.state == "open" and is_active(one, now)]


def answer(
    consumers: tuple[ConsumerRecord, ...], name: str, state: ConsumerState, *, by: str, said: str, at: datetime
) -> tuple[ConsumerRecord, ...]:
    """Return the consumers with one of them acknowledged or waived.

    Raises
    ------
    NotFound
        When no such consumer was seen; names those that were.
    InvalidInput
        When a waiver has no reason.
    """
    known = [consumer.name for consumer in consumers]
    if name not in known:
        listed = ", ".join(known) or "nobody called it"
        raise NotFound(
            "no such consumer called this version", value=name, remedy=f"{did_you_mean(name, known)}known: {listed}"
        )
    if state == "waived" and not said.strip():
        raise InvalidInput(
            "a waiver needs a reason", where=f"consumer {name}", remedy="--reason 'why they need not answer'"
        )
    return tuple(replace(one, state=state, by=by, said=said, at=at) if one.name == name else one for one in consumers)
