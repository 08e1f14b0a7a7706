"""Envoy's admin interface, over its Unix socket: what is really in force."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlcycle_nb.errors import EngineError
from mlcycle_nb.serving.gateway.clusters import ClusterName
from mlcycle_nb.serving.gateway.routes import PLAN_METADATA


@dataclass(frozen=True, slots=True)
class ClusterState:
    """One cluster as Envoy has it."""

    sockets: dict[str, bool]  # path -> receives requests
    max_retries: int
    max_requests: int
    max_connections: int
    max_pending_requests: int


@dataclass(frozen=True, slots=True)
class ClusterCounts:
    """What Envoy has counted for one cluster since it started.

    ``refused`` are requests that a circuit breaker turned away; ``no_replica`` those that found none healthy.
    """

    requests: int = 0
    completed: int = 0
    errors: int = 0
    retries: int = 0
    retries_refused: int = 0
    connect_failures: int = 0
    resets: int = 0
    timeouts: int = 0
    refused: int = 0
    no_replica: int = 0
    active: int = 0


_COUNTERS = {
    "requests": "upstream_rq_total",
    "completed": "upstream_rq_completed",
    "errors": "upstream_rq_5xx",
    "retries": "upstream_rq_retry",
    "retries_refused": "upstream_rq_retry_overflow",
    "connect_failures": "upstream_cx_connect_fail",
    "resets": "upstream_rq_rx_reset",
    "timeouts": "upstream_rq_timeout",
    "refused": "upstream_rq_pending_overflow",
    "no_replica": "upstream_cx_none_healthy",
    "active": "upstream_rq_active",
}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("admin", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


READY_SECONDS = 2.0
"""Silence of one question. Five in a row come before a gateway that hangs is ended: ten seconds without answers."""


class Admin:
    """Client of the admin interface behind one Unix socket."""

    def __init__(self, path: Path, *, timeout_seconds: float = 5.0) -> None:
        self.path = path
        self.timeout_seconds = timeout_seconds

    def request(self, target: str, method: str = "GET", *, timeout_seconds: float | None = None) -> bytes:
        """Return the body of an answer with status 200.

        Raises
        ------
        EngineError
            When Envoy cannot be reached, or refuses.
        """
        connection = _UnixConnection(self.path, timeout_seconds or self.timeout_seconds)
        try:
            connection.request(method, target)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as failure:
            raise EngineError(
                f"the gateway's admin socket does not answer: {failure}",
                where=str(self.path),
                remedy="the supervisor restarts the gateway; see envoy.log in its folder",
            ) from failure
        finally:
            connection.close()
        if response.status != 200:
            raise EngineError(f"the gateway answered {response.status} to {target}", value=body[:200].decode("latin-1"))
        return body

    def ready(self) -> bool:
        """Return whether Envoy has its configuration and listens."""
        try:
            return self.request("/ready", timeout_seconds=READY_SECONDS).strip() == b"LIVE"
        except EngineError:
            return False

    def reopen_logs(self) -> None:
        """Have the access log written to a new file of its name."""
        self.request("/reopen_logs", "POST")

    def prometheus(self) -> str:
        """Return all of Envoy's statistics in Prometheus text format."""
        return self.request("/stats/prometheus").decode()

    def statistics(self, pattern: str) -> dict[str, int]:
        """Return counters and gauges whose name matches a regular expression."""
        listed = json.loads(self.request(f"/stats?format=json&filter={quote(pattern, safe='')}"))["stats"]
        return {stat["name"]: int(stat["value"]) for stat in listed if "name" in stat}

    def counts(self) -> dict[str, ClusterCounts]:
        """Return the counters of every cluster, by its name."""
        fields = {stat: field for field, stat in _COUNTERS.items()}
        found: dict[str, dict[str, int]] = {}
        wanted = "|".join(map(re.escape, fields))
        for stat, value in self.statistics(rf"^cluster\.[^.]+\.({wanted})$").items():
            _, cluster, name = stat.split(".")
            found.setdefault(cluster, {})[fields[name]] = value
        return {cluster: ClusterCounts(**values) for cluster, values in sorted(found.items())}

    def latencies(self) -> dict[str, dict[float, float]]:
        """Return, for every cluster, the time its replicas took since the start: percentile -> milliseconds."""
        body = self.request(f"/stats?format=json&filter={quote('upstream_rq_time$', safe='')}")
        found: dict[str, dict[float, float]] = {}
        for stat in json.loads(body)["stats"]:
            quantiles = stat.get("histograms", {}).get("supported_quantiles", [])
            for histogram in stat.get("histograms", {}).get("computed_quantiles", []):
                values = [value["cumulative"] for value in histogram["values"]]
                points = {q: float(v) for q, v in zip(quantiles, values, strict=True) if v is not None}
                if points:
                    found[histogram["name"].split(".")[1]] = points
        return found

    def clusters(self) -> dict[str, ClusterState]:
        """Return the clusters that are warm, with their replicas and circuit breakers."""
        listed = json.loads(self.request("/clusters?format=json")).get("cluster_statuses", [])
        return {status["name"]: _state(status) for status in listed}

    def active_requests(self, clusters: Iterable[str]) -> int:
        """Return how many requests are at, wait for, or are being retried on these clusters."""
        names = "|".join(re.escape(name) for name in sorted(clusters))
        if not names:
            return 0
        gauges = r"upstream_rq_active|upstream_rq_pending_active|circuit_breakers\.default\.remaining_retries"
        stats = self.statistics(rf"^cluster\.({names})\.({gauges})$")
        limits = self.clusters()
        busy = 0
        for stat, value in stats.items():
            if stat.endswith("remaining_retries"):
                state = limits.get(stat.split(".")[1])
                busy += state.max_retries - value if state is not None else 0
            else:
                busy += value
        return busy

    def route_table(self) -> dict[str, Any]:
        """Return the route configuration in force; Envoy blanks the API keys in it."""
        configs = json.loads(self.request("/config_dump?resource=dynamic_route_configs")).get("configs", [])
        return dict(configs[0]["route_config"]) if configs else {}

    def rejected_routes(self) -> int:
        """Return how many route files Envoy has refused since its start."""
        return sum(self.statistics(r"^http\.gateway\.rds\..*\.update_rejected$").values())


def _state(status: dict[str, Any]) -> ClusterState:
    breakers: dict[str, Any] = {}
    for threshold in status.get("circuit_breakers", {}).get("thresholds", []):
        if threshold.get("priority", "DEFAULT") == "DEFAULT":
            breakers = threshold
    sockets: dict[str, bool] = {}
    for host in status.get("host_statuses", []):
        health = host.get("health_status", {})
        failing = any(key.startswith("failed_") for key in health)
        sockets[host["address"]["pipe"]["path"]] = not failing
    return ClusterState(
        sockets=sockets,
        max_retries=int(breakers.get("max_retries", 0)),
        max_requests=int(breakers.get("max_requests", 0)),
        max_connections=int(breakers.get("max_connections", 0)),
        max_pending_requests=int(breakers.get("max_pending_requests", 0)),
    )


def plan_in_force(table: dict[str, Any]) -> str:
    """Return the label of the plan that a route table was made from."""
    return str(table.get("metadata", {}).get("filter_metadata", {}).get(PLAN_METADATA, {}).get("plan", ""))


def weights_in_force(table: dict[str, Any]) -> dict[str, dict[int, int]]:
    """Return model -> version -> weight of the default splits in a route table."""
    found: dict[str, dict[int, int]] = {}
    for host in table.get("virtual_hosts", []):
        for route in host.get("routes", []):
            kind, _, model = route.get("name", "").partition(":")
            if kind == "default":
                listed = route["route"]["weighted_clusters"]["clusters"]
                found[model] = {ClusterName.parse(one["name"]).version: int(one.get("weight", 0)) for one in listed}
    return found


def mirrors_in_force(table: dict[str, Any]) -> dict[str, dict[int, int]]:
    """Return model -> version -> weight of the mirrors in a route table."""
    found: dict[str, dict[int, int]] = {}
    for host in table.get("virtual_hosts", []):
        for route in host.get("routes", []):
            kind, _, model = route.get("name", "").partition(":")
            if kind == "default":
                listed = route["route"].get("request_mirror_policies", [])
                found[model] = {
                    ClusterName.parse(one["cluster"]).version: int(
                        one["runtime_fraction"]["default_value"].get("numerator", 0)
                    )
                    for one in listed
                }
    return found
