"""Plan -> Envoy clusters and their endpoints.

A version has one cluster, ``digits/8``, which only its own replicas answer: it serves pinned addresses, testers and
mirrors. In a split of several versions it also has ``digits/8~7``: the same replicas, and those of version 7 for the
time that none of 8 can be reached, so that a request of the split is answered while any allowed version lives. The
process that takes labels has a cluster of its own, `INTAKE`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlcycle_nb.serving.gateway.limits import GatewayLimits, seconds
from mlcycle_nb.serving.gateway.plan import GatewayPlan

CLUSTER_TYPE = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINT_TYPE = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
_PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
HEALTH_PATH = "/v2/health/ready"
HEALTH_INTERVAL_SECONDS = 0.5
RETURN_INTERVAL_SECONDS = 0.1
"""How often a replica that is out is asked: soon after it answers again it gets requests again."""
UPSTREAM_IDLE_SECONDS = 4.0
"""Below the 5 s after which uvicorn closes an idle connection; that race failed 205 of 1,600 requests."""


@dataclass(frozen=True, slots=True)
class ClusterName:
    """Name of a cluster: the version, and who answers when none of its replicas can."""

    model: str
    version: int
    fallback: int | None = None

    def __str__(self) -> str:
        suffix = "" if self.fallback is None else f"~{self.fallback}"
        return f"{self.model}/{self.version}{suffix}"

    @classmethod
    def parse(cls, text: str) -> ClusterName:
        """Read a name that ``str`` wrote."""
        model, _, versions = text.partition("/")
        version, _, fallback = versions.partition("~")
        return cls(model, int(version), int(fallback) if fallback else None)


INTAKE = ClusterName("~labels", 0)
"""The cluster of the process that takes labels; no model and no version has such a name."""


def split_clusters(model: str, split: tuple[tuple[int, int], ...]) -> tuple[tuple[ClusterName, int], ...]:
    """Return the clusters of a split with their weights, by version; each falls back on the heaviest other one."""
    ordered = sorted(split)
    named = []
    for version, weight in ordered:
        others = [(share, -other) for other, share in ordered if other != version and share > 0]
        fallback = -max(others)[1] if others and weight > 0 else None
        named.append((ClusterName(model, version, fallback), weight))
    return tuple(named)


def cluster_names(plan: GatewayPlan) -> list[ClusterName]:
    """Return every cluster that the plan needs, once each."""
    names = {ClusterName(cluster.model, cluster.version) for cluster in plan.clusters}
    for service in plan.services:
        names |= {name for name, _ in split_clusters(service.model, service.split)}
        for pinned in service.pinned:
            names |= {name for name, _ in split_clusters(service.model, pinned.split)}
    if plan.intake:
        names.add(INTAKE)
    return sorted(names, key=str)


def endpoints_file(folder: Path, name: ClusterName) -> Path:
    """Return the file that a cluster's endpoints are read from; Envoy takes exactly one cluster from each."""
    return folder / f"endpoints.{str(name).replace('/', '.')}.json"


def clusters(plan: GatewayPlan, limits: GatewayLimits, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the CDS resources of a plan, by name; the endpoints are in files of `folder`."""
    return {str(name): _cluster(name, limits, endpoints_file(folder, name)) for name in cluster_names(plan)}


def endpoints(plan: GatewayPlan) -> dict[ClusterName, dict[str, Any]]:
    """Return the EDS resource of each cluster of a plan."""
    sockets = {(cluster.model, cluster.version): cluster.sockets for cluster in plan.clusters}
    if plan.intake:
        sockets[INTAKE.model, INTAKE.version] = (plan.intake,)
    assignments = {}
    for name in cluster_names(plan):
        tiers = [_tier(name.model, name.version, sockets[name.model, name.version], priority=0)]
        if name.fallback is not None:
            tiers.append(_tier(name.model, name.fallback, sockets[name.model, name.fallback], priority=1))
        assignment: dict[str, Any] = {"@type": ENDPOINT_TYPE, "cluster_name": str(name), "endpoints": tiers}
        if name.fallback is not None:
            # By default Envoy begins to spill to the next tier below 72 % healthy; here one healthy replica is enough.
            factor = 100 * max(1, len(sockets[name.model, name.version]))
            assignment["policy"] = {"overprovisioning_factor": factor}
        assignments[name] = assignment
    return assignments


def _tier(model: str, version: int, sockets: tuple[str, ...], *, priority: int) -> dict[str, Any]:
    hostname = f"{model}/{version}"  # the access log shows it: who answered, also after a fallback
    return {
        "priority": priority,
        "lb_endpoints": [
            {"endpoint": {"address": {"pipe": {"path": socket}}, "hostname": hostname}} for socket in sockets
        ],
    }


def sockets_of(assignment: dict[str, Any]) -> set[str]:
    """Return the socket paths in an EDS resource."""
    hosts = [host for tier in assignment["endpoints"] for host in tier["lb_endpoints"]]
    return {host["endpoint"]["address"]["pipe"]["path"] for host in hosts}


def stand_ins(plan: GatewayPlan, leaving: Iterable[str]) -> dict[ClusterName, dict[str, Any]]:
    """Return endpoints for clusters that the plan no longer has: the version with most of their model's requests.

    A request whose body began to arrive under the old routes still goes to its old cluster.
    """
    sockets = {(cluster.model, cluster.version): cluster.sockets for cluster in plan.clusters}
    heaviest = {
        service.model: max(service.split, key=lambda one: one[1])[0] for service in plan.services if service.split
    }
    found = {}
    for name in map(ClusterName.parse, leaving):
        version = heaviest.get(name.model)
        if version is not None:
            tier = _tier(name.model, version, sockets[name.model, version], priority=0)
            found[name] = {"@type": ENDPOINT_TYPE, "cluster_name": str(name), "endpoints": [tier]}
    return found


def watched(file: Path) -> dict[str, Any]:
    """Return a source that Envoy reads again whenever a file is renamed onto `file`."""
    return {"path_config_source": {"path": str(file)}, "resource_api_version": "V3", "initial_fetch_timeout": "10s"}


def _cluster(name: ClusterName, limits: GatewayLimits, endpoints_from: Path) -> dict[str, Any]:
    return {
        "@type": CLUSTER_TYPE,
        "name": str(name),
        "type": "EDS",
        "eds_cluster_config": {"eds_config": watched(endpoints_from)},
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        # A host taken out of the plan is not kept because it still answers health checks.
        "ignore_health_on_host_removal": True,
        # Below half of the hosts healthy Envoy would by default send to the dead ones as well. Not so with 1 %: then
        # only when none counts as healthy, in any tier. It is still right to try them: with 0, the second of two
        # replicas killed while the first was back, but not yet checked, meant 439 answers of 503.
        # Health changes are by default held back up to a second: with two replicas killed one soon after the other, all
        # requests went to the dead one, and 1,178 of 5,254 failed.
        "common_lb_config": {"healthy_panic_threshold": {"value": 1}, "update_merge_window": "0s"},
        "circuit_breakers": {"thresholds": [breakers(limits)]},
        "health_checks": [_health_check()],
        "outlier_detection": _outliers(),
        "typed_extension_protocol_options": {
            _PROTOCOL: {
                "@type": f"type.googleapis.com/{_PROTOCOL}",
                "explicit_http_config": {"http_protocol_options": {}},
                "common_http_protocol_options": {"idle_timeout": seconds(UPSTREAM_IDLE_SECONDS)},
            }
        },
    }


def breakers(limits: GatewayLimits) -> dict[str, Any]:
    """Return the circuit breaker settings; each defaults to something that silently wins under load."""
    return {
        "priority": "DEFAULT",
        "max_connections": limits.max_concurrency,
        "max_pending_requests": limits.max_concurrency,
        "max_requests": limits.max_concurrency,
        "max_retries": limits.max_concurrency,
        "track_remaining": True,
    }


def _health_check() -> dict[str, Any]:
    interval = seconds(HEALTH_INTERVAL_SECONDS)
    return {
        # Generous: a replica busy with a long batch is slow, not dead. A dead one refuses the connection at once.
        "timeout": "2s",
        "interval": interval,
        "unhealthy_threshold": 3,
        "healthy_threshold": 1,
        # Without these two, hosts of a cluster that has had no requests are checked once a minute.
        "no_traffic_interval": interval,
        "no_traffic_healthy_interval": interval,
        "unhealthy_interval": seconds(RETURN_INTERVAL_SECONDS),
        "http_health_check": {"path": HEALTH_PATH, "host": "health"},
    }


def _outliers() -> dict[str, Any]:
    # Only what the gateway itself saw fail (connections refused or reset) ejects a replica; an answer of 500 is the
    # model's own result, which analysis has to see.
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 2,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_local_origin_success_rate": 0,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "max_ejection_percent": 100,
        "interval": "0.5s",
        "base_ejection_time": "1s",
        "max_ejection_time": "5s",
    }
