"""Records of one environment -> the plan of its gateway."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from mlcycle_nb.deployment.keys import key_digest
from mlcycle_nb.deployment.records import Consumer, PinnedRoute, Revision, Service, Split
from mlcycle_nb.deployment.sockets import replica_socket
from mlcycle_nb.serving.gateway import GatewayPlan, PinnedPlan, RevisionCluster, ServicePlan


def make_plan(
    home: Path,
    services: Iterable[Service],
    revisions: Iterable[Revision],
    consumers: Iterable[Consumer],
    keys: Mapping[str, str],
    *,
    fence: int = 0,
    generation: int = 0,
    intake: str = "",
) -> GatewayPlan:
    """Return everything that the gateway of one environment should do.

    Only revisions that have been ready get requests. One that drains is left out, so that it may stop once the plan
    is in force.
    """
    ready = sorted((r for r in revisions if r.phase == "ready"), key=lambda r: r.id)
    known = sorted(services, key=lambda service: service.id)
    living = {(r.model, r.model_version) for r in ready}
    return GatewayPlan(
        fence=fence,
        generation=generation,
        intake=intake,
        services=tuple(_service(service, living) for service in known if service.split or service.phase == "gone"),
        clusters=tuple(_cluster(home, revision) for revision in ready),
        consumers={
            consumer.name: keys[consumer.name]
            for consumer in sorted(consumers, key=lambda consumer: consumer.id)
            if consumer.phase == "active"
            and consumer.name in keys
            and key_digest(keys[consumer.name]) == consumer.key_digest
        },
    )


def _cluster(home: Path, revision: Revision) -> RevisionCluster:
    sockets = (
        replica_socket(home, revision.environment, revision.model, revision.model_version, index)
        for index in range(revision.replicas)
    )
    return RevisionCluster(
        model=revision.model, version=revision.model_version, sockets=tuple(str(socket) for socket in sockets)
    )


def _service(service: Service, living: set[tuple[str, int]]) -> ServicePlan:
    gone = service.phase == "gone"
    return ServicePlan(
        model=service.model,
        split=() if gone else _pairs(service.split),
        mirror=tuple(pair for pair in _pairs(service.mirror) if (service.model, pair[0]) in living and not gone),
        pinned=tuple(
            _pinned(route)
            for route in service.pinned
            if route.gone or all((service.model, one.version) in living for one in route.split)
        ),
        gone=gone,
        successor=service.successor,
    )


def _pinned(route: PinnedRoute) -> PinnedPlan:
    return PinnedPlan(
        version=route.version,
        split=() if route.gone else _pairs(route.split),
        headers=dict(route.headers),
        gone=route.gone,
        successor=route.successor,
    )


def _pairs(split: Split) -> tuple[tuple[int, int], ...]:
    return tuple((one.version, one.weight) for one in split)
