"""The stages before this one, as retirement needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlcycle_nb.context import Context
from mlcycle_nb.deployment import routes
from mlcycle_nb.deployment.calls import current_callers
from mlcycle_nb.deployment.records import (
    Gateway,
    PinnedRoute,
    Revision,
    Service,
    Weight,
    revision_id,
    service_id,
)
from mlcycle_nb.deployment.revisions import let_go, size_revision
from mlcycle_nb.errors import NotFound
from mlcycle_nb.retirement.decide import OUR_TAGS
from mlcycle_nb.retirement.records import Address
from mlcycle_nb.retirement.world import Caller

if TYPE_CHECKING:
    from mlcycle_nb.development.records import ModelVersion
    from mlcycle_nb.development.service import ModelDevelopmentManager

RUNNING = ("starting", "ready")
_REASON = "retirement"


def real_world(context: Context) -> tuple[DeployedTraffic, DevelopmentRegistry, ChannelMessenger]:
    """Return the real stages, for the supervisor."""
    from mlcycle_nb.development.service import ModelDevelopmentManager

    registry = DevelopmentRegistry(context, ModelDevelopmentManager(context))
    return DeployedTraffic(context), registry, ChannelMessenger(context)


class DeployedTraffic:
    """Deployment's records, which its controllers bring into force, and what they read back from the gateway."""

    def __init__(self, context: Context) -> None:
        self._context = context

    # -- reading ---------------------------------------------------------------------------------------------

    def running(self, environment: str, model: str, version: int) -> bool:
        revision = self._revision(environment, model, version)
        return revision is not None and revision.phase in RUNNING

    def warm_seconds(self, environment: str, model: str, version: int) -> float | None:
        revision = self._revision(environment, model, version)
        ending = revision is not None and revision.phase in RUNNING and revision.drain_at is not None
        return revision.warm_seconds if ending and revision is not None else None

    def healthy(self, environment: str, model: str, version: int) -> int:
        if not self.running(environment, model, version):
            return 0
        seen = self._context.store.observed(Gateway, environment)
        return int(seen.get("reachable", {}).get(f"{model}/{version}", 0)) if seen.get("alive") else 0

    def stable(self, environment: str, model: str) -> int | None:
        service = self._service(environment, model)
        return None if service is None or service.phase == "gone" else service.stable

    def environments(self, model: str, version: int) -> list[str]:
        found = self._context.store.find(Revision, name=model, active=True)
        return sorted({one.environment for one in found if one.model_version == version})

    def address(self, environment: str, model: str, version: int) -> Address:
        service = self._service(environment, model)
        pinned = () if service is None else service.pinned
        return next((_address(route) for route in pinned if route.version == version), Address())

    def in_force(self, environment: str, model: str, version: int) -> Address:
        from mlcycle_nb.serving.gateway import Gateway as Envoy

        return address_in_force(Envoy(self._context, environment).admin.route_table(), model, version)

    def processes(self, environment: str, model: str, version: int) -> list[str]:
        return self._context.processes.names(f"replica-{environment}.{model}.{version}.")

    def callers(self, environment: str, model: str, version: int) -> list[Caller]:
        return [
            Caller(
                name=one.consumer,
                requests=one.requests,
                pinned=one.pinned,
                first_seen=one.first_seen,
                last_seen=one.last_seen,
                last_pinned=one.last_pinned,
            )
            for one in current_callers(self._context, environment, model, version)
        ]

    # -- writing ---------------------------------------------------------------------------------------------

    def set_address(self, environment: str, model: str, version: int, address: Address) -> None:
        service = service_id(environment, model)
        if not address.planned:
            routes.clear_pinned(self._context, service, version, reason=_REASON)
            return
        pinned = _route(version, address)
        # Every version that answers here runs already, so there is nothing to make from a digest.
        replicas = self._context.settings.serving.replicas
        routes.set_pinned(self._context, service, pinned, {}, replicas=replicas, reason=_REASON)

    def stop(self, environment: str, model: str, version: int) -> None:
        found = self._revision(environment, model, version)
        if found is None or found.phase not in RUNNING or (found.drain_at is not None and not found.warm_seconds):
            return
        routes.stop_version(self._context, service_id(environment, model), version, reason=_REASON)

    def start(self, environment: str, model: str, version: int) -> None:
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            found = transaction.maybe(Revision, revision_id(environment, model, version))
            if found is None:
                raise NotFound(f"{model}/{version} was never deployed to {environment}")
            size_revision(
                transaction,
                self._context.clock.now(),
                environment=environment,
                model=model,
                version=version,
                replicas=found.replicas,
                digest=found.digest,
            )

    def let_go(self, environment: str, model: str, version: int, warm_seconds: float) -> None:
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            now = self._context.clock.now()
            let_go(transaction, now, environment=environment, model=model, version=version, warm_seconds=warm_seconds)

    # -- parts -----------------------------------------------------------------------------------------------

    def _revision(self, environment: str, model: str, version: int) -> Revision | None:
        return self._context.store.maybe(Revision, revision_id(environment, model, version))

    def _service(self, environment: str, model: str) -> Service | None:
        return self._context.store.maybe(Service, service_id(environment, model))


class DevelopmentRegistry:
    """The model registry behind the development service."""

    def __init__(self, context: Context, development: ModelDevelopmentManager) -> None:
        self._context = context
        self._development = development

    def digest(self, model: str, version: int) -> str:
        return self._version(model, version).package_digest

    def versions_with(self, digest: str) -> list[str]:
        known = [one for model in self._development.models() for one in self._development.versions(model)]
        return sorted(one.reference for one in known if one.package_digest == digest)

    def aliases(self, model: str) -> dict[str, int]:
        return {alias: one.version for one in self._development.versions(model) for alias in one.aliases}

    def set_alias(self, model: str, alias: str, version: int) -> None:
        self._development.set_alias(model, alias, version)

    def tags(self, model: str, version: int) -> dict[str, str]:
        # MLflow's registry has no removal that the workspace knows of: an empty tag is one that was removed.
        return {key: value for key, value in self._version(model, version).tags.items() if value}

    def set_tags(self, model: str, version: int, tags: dict[str, str | None]) -> None:
        current = self.tags(model, version)
        for key, value in sorted(tags.items()):
            if current.get(key, "") != (value or ""):
                self._development.tag_version(f"{model}/{version}", key, value or "")

    def lineage(self, model: str, version: int) -> dict[str, object]:
        found = self._version(model, version)
        lineage: dict[str, object] = {"registered_at": found.created_at.isoformat(), "run": found.run_id or "none"}
        lineage |= {f"tag {key}": value for key, value in found.tags.items() if value and key not in OUR_TAGS}
        if found.run_id is not None:
            run = self._development.run(found.run_id)
            lineage |= {f"parameter {key}": value for key, value in run.parameters.items()}
            lineage |= {f"metric {key}": value for key, value in run.metrics.items()}
            lineage |= {f"run {key}": value for key, value in run.tags.items() if not key.startswith("mlflow.")}
        return lineage

    def _version(self, model: str, version: int) -> ModelVersion:
        return self._development.get_version(f"{model}/{version}")


class ChannelMessenger:
    """The alert channels of monitoring."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def check(self, channel: str) -> None:
        from mlcycle_nb.monitoring.channels import resolve

        resolve([channel], self._context.settings)

    def send(self, channel: str, key: str, message: dict[str, object]) -> tuple[bool, str]:
        from mlcycle_nb.monitoring.channels import CHANNELS

        monitor = f"{message['environment']}/{str(message['version']).partition('/')[0]}"
        body = {"monitor": monitor, "kind": "retirement", "summary": message["text"], **message}
        delivery = CHANNELS.load(channel).deliver(self._context, key, body)
        return delivery.delivered, delivery.detail


def address_in_force(table: dict[str, Any], model: str, version: int) -> Address:
    """Return what a route table of Envoy answers at a version's own address."""
    from mlcycle_nb.serving.gateway.clusters import ClusterName

    readers: dict[str, Callable[[dict[str, Any]], Address]] = {
        f"pinned:{model}:{version}": lambda route: Address(
            planned=True,
            split=tuple(
                (ClusterName.parse(one["name"]).version, int(one.get("weight", 0)))
                for one in route["route"]["weighted_clusters"]["clusters"]
            ),
            headers=_headers(route),
        ),
        f"gone:{model}:{version}": lambda route: Address(
            planned=True, gone=True, headers=_headers(route), successor=_successor(route)
        ),
    }
    for host in table.get("virtual_hosts", []):
        for route in host.get("routes", []):
            read = readers.get(route.get("name", ""))
            if read is not None:
                return read(route)
    return Address()


def _headers(route: dict[str, Any]) -> dict[str, str]:
    found = {}
    for one in route.get("response_headers_to_add", []):
        name, value = one["header"]["key"], one["header"]["value"].replace("%%", "%")
        if name.lower() not in ("content-type",):
            found[name] = value
    return found


def _successor(route: dict[str, Any]) -> str | None:
    import json

    body = route.get("direct_response", {}).get("body", {}).get("inline_string", "{}")
    successor = json.loads(body).get("successor")
    return None if successor is None else str(successor)


def _address(route: PinnedRoute) -> Address:
    split = tuple((one.version, one.weight) for one in route.split)
    return Address(planned=True, split=split, headers=dict(route.headers), gone=route.gone, successor=route.successor)


def _route(version: int, address: Address) -> PinnedRoute:
    split = tuple(Weight(number, weight) for number, weight in address.split)
    headers = dict(address.headers)
    return PinnedRoute(version=version, split=split, headers=headers, gone=address.gone, successor=address.successor)
