"""Bringing a revision to a size inside a transaction: made, revived or grown, whatever it needs."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from mlcycle_nb.deployment.records import Revision, revision_id
from mlcycle_nb.store import Transaction

IDLE = ("draining", "stopped")


def size_revision(
    transaction: Transaction,
    now: datetime,
    *,
    environment: str,
    model: str,
    version: int,
    replicas: int,
    digest: str,
    runtime: str | None = None,
) -> Revision:
    """Have a version run on `replicas` replicas, and stay; `runtime` counts when they are started."""
    id = revision_id(environment, model, version)
    found = transaction.maybe(Revision, id)
    detail = {"replicas": replicas}
    if found is None:
        fresh = Revision(
            id=id,
            phase="starting",
            created_at=now,
            environment=environment,
            model=model,
            model_version=version,
            digest=digest,
            replicas=replicas,
            runtime=runtime or "",
        )
        return transaction.insert(fresh, event="revision.starting", detail=detail)
    sized = replace(found, replicas=replicas, drain_at=None)
    if found.phase in IDLE:
        sized = replace(sized, phase="starting", attempt=found.attempt + 1, digest=digest)
        sized = sized if runtime is None else replace(sized, runtime=runtime)
        return transaction.update(sized, event="revision.starting", detail=detail)
    return transaction.update(sized, event="revision.sized", detail=detail)


def let_go(
    transaction: Transaction, now: datetime, *, environment: str, model: str, version: int, warm_seconds: float
) -> None:
    """Have a version's replicas stop after a time, unless something still needs them then."""
    found = transaction.maybe(Revision, revision_id(environment, model, version))
    if found is None or found.phase in IDLE:
        return
    leaving = replace(found, drain_at=now + timedelta(seconds=warm_seconds), warm_seconds=warm_seconds)
    if found.phase == "starting":
        leaving = replace(leaving, phase="draining", drain_at=None)  # it never had a request
    transaction.update(leaving, event="revision.leaving", detail={"after_seconds": warm_seconds})
