"""Changes of a service's routes that no rollout makes: versions' own addresses, and the end of a service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.records import PinnedRoute, Revision, Service, revision_id
from mlcycle_nb.deployment.revisions import IDLE, let_go, size_revision
from mlcycle_nb.errors import Refused


def set_pinned(
    context: Context, service: str, pinned: PinnedRoute, digests: Mapping[int, str], *, replicas: int, reason: str
) -> Service:
    """Set the address of one version, and start the versions that have to answer there."""
    now = context.clock.now()
    with context.store.transaction(actor=context.actor) as transaction:
        found = transaction.get(Service, service)
        for one in pinned.split:
            known = transaction.maybe(Revision, revision_id(found.environment, found.model, one.version))
            if known is None or known.phase in IDLE or known.drain_at is not None:
                size_revision(
                    transaction,
                    now,
                    environment=found.environment,
                    model=found.model,
                    version=one.version,
                    replicas=replicas if known is None else known.replicas,
                    digest=digests[one.version] if known is None else known.digest,
                )
        others = tuple(route for route in found.pinned if route.version != pinned.version)
        return transaction.update(
            found.routed(pinned=tuple(sorted((*others, pinned), key=lambda route: route.version))),
            event="service.pinned",
            detail={"pinned": pinned},
            reason=reason,
        )


def clear_pinned(context: Context, service: str, version: int, *, reason: str) -> Service:
    """Forget what was set for a version's address."""
    with context.store.transaction(actor=context.actor) as transaction:
        found = transaction.get(Service, service)
        if all(route.version != version for route in found.pinned):
            return found
        return transaction.update(
            found.routed(pinned=tuple(route for route in found.pinned if route.version != version)),
            event="service.unpinned",
            detail={"version": version},
            reason=reason,
        )


def stop_version(context: Context, service: str, version: int, *, reason: str) -> None:
    """Have a version's replicas stop."""
    with context.store.transaction(actor=context.actor) as transaction:
        found = transaction.get(Service, service)
        if found.uses(version):
            raise Refused(
                f"{found.model}/{version} still gets requests in {found.environment}",
                remedy="deploy a replacement, or end its address first",
            )
        transaction.note(
            "revision.stop_asked", subject=f"revision:{service}/{version}", detail={"version": version}, reason=reason
        )
        let_go(
            transaction,
            context.clock.now(),
            environment=found.environment,
            model=found.model,
            version=version,
            warm_seconds=0.0,
        )


def undeploy(context: Context, service: str, *, successor: str | None, reason: str) -> Service:
    """End a service: 410 at its addresses, no stable version, replicas stop."""
    with context.store.transaction(actor=context.actor) as transaction:
        found = transaction.get(Service, service)
        gone = tuple(
            PinnedRoute(version=version, gone=True, successor=successor)
            for version in sorted({*found.stables, *(route.version for route in found.pinned)})
        )
        ended = replace(found.routed(split=(), mirror=(), pinned=gone), phase="gone", stable=None, successor=successor)
        changed = transaction.update(ended, event="service.ended", detail={"successor": successor or ""}, reason=reason)
        for revision in transaction.find(Revision, name=found.model, active=True):
            if revision.environment == found.environment:
                let_go(
                    transaction,
                    context.clock.now(),
                    environment=found.environment,
                    model=found.model,
                    version=revision.model_version,
                    warm_seconds=0.0,
                )
        return changed
