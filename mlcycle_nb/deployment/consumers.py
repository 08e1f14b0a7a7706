"""Consumers of an environment: added, listed, revoked; the key is told once and kept in one private file."""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass, field, replace
from datetime import datetime

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.keys import ConsumerKeys, key_digest
from mlcycle_nb.deployment.records import Consumer, Gateway
from mlcycle_nb.errors import Conflict, EngineError, NotFound, Refused, WaitTimeout
from mlcycle_nb.notebook.html import paragraph, table, text_table

KEY_SECONDS = 30.0
ACCEPT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class NewConsumer:
    """A consumer that was just made; the only place where its key is shown."""

    name: str
    environment: str
    key: str = field(repr=False)

    def __repr__(self) -> str:
        return f"consumer {self.name} of {self.environment}; its key, shown this once: {self.key}"

    def _repr_html_(self) -> str:
        return paragraph(repr(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerState:
    """A consumer with what it has asked."""

    name: str
    environment: str
    phase: str
    requests: int
    last_seen: datetime | None


class ConsumerList(list[ConsumerState]):
    """Consumers as a table."""

    def __repr__(self) -> str:
        return text_table(("consumer", "environment", "phase", "requests", "last seen"), self._rows())

    def _repr_html_(self) -> str:
        return table(("consumer", "environment", "phase", "requests", "last seen"), self._rows())

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                c.name,
                c.environment,
                c.phase,
                str(c.requests),
                "never" if c.last_seen is None else f"{c.last_seen:%F %T}",
            )
            for c in self
        ]


def _when(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def _keys(context: Context, environment: str) -> ConsumerKeys:
    return ConsumerKeys(context.folder("gateway", environment))


def add(context: Context, environment: str, name: str) -> NewConsumer:
    """Make a consumer; one that was revoked comes back with another key."""
    id = f"{environment}/{name}"
    found = context.store.maybe(Consumer, id)
    if found is not None and found.phase == "active":
        raise Conflict(f"consumer {name} of {environment} exists already", remedy=f"%consumer revoke {name}, then add")
    key = _keys(context, environment).make(name)
    with context.store.transaction(actor=context.actor) as transaction:
        if found is None:
            record = Consumer(
                id=id,
                phase="active",
                created_at=context.clock.now(),
                environment=environment,
                key_digest=key_digest(key),
            )
            transaction.insert(record, event="consumer.added")
        else:
            transaction.update(replace(found, phase="active", key_digest=key_digest(key)), event="consumer.added")
    return NewConsumer(name, environment, key)


def ensure(context: Context, environment: str, name: str) -> None:
    """Make the consumer unless there is one; a revoked one stays revoked."""
    found = context.store.maybe(Consumer, f"{environment}/{name}")
    if found is not None and found.phase == "revoked":
        raise Refused(f"consumer {name} of {environment} was revoked", remedy=f"%consumer add {name}")
    if found is None:
        try:
            add(context, environment, name)
        except Conflict:
            return  # another kernel was first


def revoke(context: Context, environment: str, name: str) -> None:
    """Take the key away; a consumer that is revoked already stays so."""
    found = context.store.maybe(Consumer, f"{environment}/{name}")
    if found is None:
        known = ", ".join(c.name for c in context.store.find(Consumer) if c.environment == environment) or "none"
        raise NotFound(f"there is no consumer of this name in {environment}", value=name, remedy=f"known: {known}")
    if found.phase == "active":
        with context.store.transaction(actor=context.actor) as transaction:
            transaction.update(replace(found, phase="revoked"), event="consumer.revoked")
    _keys(context, environment).forget(name)


def listed(context: Context, environment: str) -> list[ConsumerState]:
    """Return all consumers with their requests, over all models and versions."""
    tail = context.store.observed(Gateway, environment).get("tail") or {}
    totals: dict[str, tuple[int, datetime]] = {}
    for key, one in tail.get("callers", {}).items():
        name, last = key.rpartition("/")[2], datetime.fromisoformat(one["last_seen"])
        before = totals.get(name, (0, last))
        totals[name] = (before[0] + int(one["requests"]), max(before[1], last))
    return ConsumerList(
        ConsumerState(
            name=consumer.name,
            environment=environment,
            phase=consumer.phase,
            requests=totals[consumer.name][0] if consumer.name in totals else 0,
            last_seen=totals[consumer.name][1] if consumer.name in totals else None,
        )
        for consumer in context.store.find(Consumer, newest_first=False)
        if consumer.environment == environment
    )


def key_of(context: Context, environment: str, name: str) -> str:
    """Return a consumer's key from the private file."""
    key = _keys(context, environment).read().get(name)
    if key is None:
        raise NotFound(
            f"the key of consumer {name} is lost", where=environment, remedy=f"%consumer revoke {name}, then add it"
        )
    return key


def wait_until_served(
    context: Context, environment: str, model: str, name: str, *, limit_seconds: float = KEY_SECONDS
) -> str:
    """Return the gateway's address once a replica of `model` answers there to this consumer's key.

    Asked at the gateway itself: what is stored may have been true before everything was stopped.
    """
    key = key_of(context, environment, name)
    deadline = time.monotonic() + limit_seconds
    while True:
        seen = context.store.observed(Gateway, environment)
        url = str(seen.get("url", ""))
        status = _ask(url, f"/v2/models/{model}/ready", key) if url else 0
        if status == 200:
            return url
        if time.monotonic() > deadline:
            trouble = seen.get("problem") or seen.get("error")
            if trouble:
                raise EngineError(f"the gateway of {environment} is in trouble: {trouble}", remedy="mlcycle doctor")
            said = f"answers {status}" if status else "does not answer"
            raise WaitTimeout(f"{model} in {environment} {said} after {limit_seconds:g} s", remedy="%mlcycle status")
        time.sleep(0.05)


def wait_until_accepted(context: Context, environment: str, key: str, *, limit_seconds: float = ACCEPT_SECONDS) -> bool:
    """Return whether the running gateway takes a key, once it does; a gateway that is not up is not waited for.

    A key that is shown should work when it is pasted. One that does not yet is still the consumer's: it is shown
    once only, so nothing is raised here.
    """
    url = str(context.store.observed(Gateway, environment).get("url", ""))
    deadline = time.monotonic() + limit_seconds
    while url and (status := _ask(url, "/v2/health/live", key)):
        if status == 200:
            return True
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return False


def _ask(url: str, path: str, key: str) -> int:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=2.0)
    try:
        connection.request("GET", path, headers={"authorization": f"Bearer {key}"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
