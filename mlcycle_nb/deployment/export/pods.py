"""The pods of one version: the replica on its Unix socket, and Envoy before it on the pod's port.

A replica never listens on TCP, so the same image runs twice in a pod: once as the replica, once as the Envoy that
mlcycle_nb depends on.
"""

from __future__ import annotations

import json
from typing import Any

from mlcycle_nb.deployment.export.manifest import Manifest, metadata
from mlcycle_nb.deployment.export.names import whole_seconds
from mlcycle_nb.deployment.export.wish import ExportWish

PORT = 8080
PACKAGE_PATH = "/package"
SOCKET = "/run/mlcycle/replica/replica.sock"
"""In a folder of the replica's own: it makes that folder private, which it may not do to a volume's root."""
CONFIGURATION = "/etc/mlcycle"
SCRAPED = {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT), "prometheus.io/path": "/metrics"}
_TYPES = "type.googleapis.com/envoy.extensions."
_USER = 1000  # both containers: the socket is its owner's only


def labels(wish: ExportWish) -> dict[str, str]:
    """Return the labels of every object of a model."""
    return {"app.kubernetes.io/name": wish.name, "app.kubernetes.io/managed-by": "mlcycle"}


def selector(wish: ExportWish) -> dict[str, str]:
    """Return the labels that choose the pods of all versions."""
    return {"app.kubernetes.io/name": wish.name}


def configuration_name(wish: ExportWish) -> str:
    """Return the name of a version's configuration; each has its own, so that old pods keep theirs."""
    return f"{wish.name}-v{wish.version}"


def configuration(wish: ExportWish) -> Manifest:
    """Return the ConfigMap of a version."""
    data = {
        "replica.json": json.dumps(replica_configuration(wish), indent=1) + "\n",
        "envoy.json": json.dumps(envoy_configuration(), indent=1) + "\n",
    }
    meta = metadata(configuration_name(wish), wish.namespace, **labels(wish))
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


def replica_configuration(wish: ExportWish) -> dict[str, Any]:
    """Return what the replica is started with; predictions are not logged, because a pod's disk ends with it."""
    return {
        "package_path": PACKAGE_PATH,
        "digest": wish.digest,
        "model": wish.model,
        "version": str(wish.version),
        "environment": wish.environment,
        "socket": SOCKET,
        "threads": wish.threads,
        "trusted_keys": list(wish.trusted_keys),
        "limits": {"body_bytes": wish.body_bytes},
    }


def envoy_configuration(*, address: str = "0.0.0.0", port: int = PORT, socket: str = SOCKET) -> dict[str, Any]:
    """Return an Envoy's configuration that hands every request of the pod's port to the replica's socket."""
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": "replica", "timeout": "60s", "retry_policy": {"retry_on": "connect-failure"}},
    }
    manager = {
        "@type": _TYPES + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "front",
        "codec_type": "AUTO",
        "server_header_transformation": "PASS_THROUGH",
        "generate_request_id": True,
        "always_set_request_id_in_response": True,
        "request_headers_timeout": "10s",
        "route_config": {"virtual_hosts": [{"name": "replica", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": _TYPES + "filters.http.router.v3.Router"}}
        ],
    }
    listener = {
        "name": "front",
        "address": {"socket_address": {"address": address, "port_value": port}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    options = {
        "@type": _TYPES + "upstreams.http.v3.HttpProtocolOptions",
        # Below the replica's own limit, so that no request meets a connection that is just being closed.
        "common_http_protocol_options": {"idle_timeout": "4s"},
        "explicit_http_config": {"http_protocol_options": {}},
    }
    cluster = {
        "name": "replica",
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {
            "cluster_name": "replica",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": socket}}}}]}],
        },
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def pod_template(wish: ExportWish) -> dict[str, Any]:
    """Return the template of a version's pods."""
    named = {**labels(wish), "app.kubernetes.io/version": str(wish.version)}
    return {"metadata": {"labels": named, "annotations": dict(SCRAPED)}, "spec": pod_spec(wish)}


def pod_spec(wish: ExportWish, *, front: str = "front") -> dict[str, Any]:
    """Return what runs in a pod; `front` is the name of the container that listens."""
    image = wish.container_image
    mounts = [
        {"name": "configuration", "mountPath": CONFIGURATION, "readOnly": True},
        {"name": "sockets", "mountPath": "/run/mlcycle"},
    ]
    # On containers, not on the pod: Knative takes it there only.
    confined = {
        "runAsNonRoot": True,
        "runAsUser": _USER,
        "runAsGroup": _USER,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    replica = {
        "name": "replica",
        "image": image,
        "command": ["python", "-m", "mlcycle_nb.serving.replica", "--config", f"{CONFIGURATION}/replica.json"],
        "resources": {"requests": {"cpu": str(wish.threads), "memory": "512Mi"}},
        "securityContext": confined,
        "volumeMounts": mounts,
        # The pod leaves the services first, then the replica drains, then Envoy goes.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},
    }
    listening = {
        "name": front,
        "image": image,
        "command": [
            "envoy", "--config-path", f"{CONFIGURATION}/envoy.json", "--concurrency", "1", "--disable-hot-restart",
        ],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
        "securityContext": confined,
        "volumeMounts": mounts,
        "startupProbe": _probe("ready", period=2, failures=whole_seconds(wish.policy.start_seconds / 2)),
        "readinessProbe": _probe("ready", period=5, failures=2),
        "livenessProbe": _probe("live", period=10, failures=6),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "10"]}}},
    }  # fmt: skip
    return {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 45,
        "containers": [listening, replica],
        "volumes": [
            {"name": "configuration", "configMap": {"name": configuration_name(wish)}},
            {"name": "sockets", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
        ],
    }


def service(wish: ExportWish, suffix: str = "") -> Manifest:
    """Return a Service of the pods; controllers narrow its selector down to a version."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(f"{wish.name}{suffix}", wish.namespace, **labels(wish)),
        "spec": {
            "selector": selector(wish),
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def _probe(what: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": f"/v2/health/{what}", "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    }
