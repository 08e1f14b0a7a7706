"""The part of Envoy's configuration that never changes while it runs: listener, filters, logs, admin.

Request ids are made here for every request. One sent by a caller is replaced, because the id joins predictions, labels
and copies of a request, and a caller who could choose it could overwrite another's; the answer carries ours in
``x-request-id``. ``x-consumer`` is removed from what comes in and set from the API key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlcycle_nb.serving.gateway.clusters import watched
from mlcycle_nb.serving.gateway.limits import GatewayLimits, seconds
from mlcycle_nb.serving.gateway.problems import local_replies
from mlcycle_nb.serving.gateway.routes import AUTH_FILTER, CONSUMER_HEADER, ROUTES_NAME

_TYPES = "type.googleapis.com/envoy.extensions."
_ADMIN_PATHS = ("/ready", "/stats", "/config_dump", "/clusters", "/reopen_logs", "/server_info")

ACCESS_LOG_FIELDS = {
    "time": "%START_TIME(%s.%6f)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "route": "%ROUTE_NAME%",
    "cluster": "%UPSTREAM_CLUSTER%",
    "answered_by": "%UPSTREAM_HOST_NAME%",
    "consumer": "%REQ(X-CONSUMER)%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ:ORIG_OR_PATH):256%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "duration_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
}


def bootstrap(
    *, port: int, admin_socket: Path, routes_file: Path, clusters_file: Path, access_log: Path, limits: GatewayLimits
) -> dict[str, Any]:
    """Return the start configuration of a gateway."""
    return {
        "node": {"id": "mlcycle", "cluster": "mlcycle"},
        "admin": {
            "address": {"pipe": {"path": str(admin_socket), "mode": 0o600}},
            "allow_paths": [{"prefix": path} for path in _ADMIN_PATHS],
        },
        "dynamic_resources": {"cds_config": watched(clusters_file)},
        "static_resources": {"listeners": [_listener(port, routes_file, access_log, limits)]},
        # Histograms are brought up to date this often; the default is 5 s.
        "stats_flush_interval": "1s",
        "layered_runtime": {"layers": [{"name": "admin", "admin_layer": {}}]},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": _TYPES + "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": 4 * limits.max_concurrency,
                    },
                }
            ]
        },
    }


def _listener(port: int, routes_file: Path, access_log: Path, limits: GatewayLimits) -> dict[str, Any]:
    return {
        "name": "gateway",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        # With reuse_port a second Envoy would silently share the port and take half of the connections.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": max(1_048_576, limits.body_bytes),
        "filter_chains": [{"filters": [_connection_manager(routes_file, access_log, limits)]}],
    }


def _connection_manager(routes_file: Path, access_log: Path, limits: GatewayLimits) -> dict[str, Any]:
    typed = {
        "@type": _TYPES + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "codec_type": "HTTP1",
        "rds": {"route_config_name": ROUTES_NAME, "config_source": watched(routes_file)},
        "use_remote_address": True,
        "skip_xff_append": True,
        "internal_address_config": {"unix_sockets": False},
        "always_set_request_id_in_response": True,
        "server_name": "mlcycle",
        "normalize_path": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "max_request_headers_kb": limits.header_kilobytes,
        "request_headers_timeout": seconds(limits.header_seconds),
        "request_timeout": seconds(limits.body_seconds),
        "stream_idle_timeout": seconds(limits.answer_seconds + limits.body_seconds),
        "common_http_protocol_options": {
            "idle_timeout": "300s",
            "max_headers_count": limits.header_count,
            # x_consumer and x-consumer are one name to some servers.
            "headers_with_underscores_action": "DROP_HEADER",
        },
        "http_protocol_options": {"accept_http_10": False, "allow_chunked_length": False},
        "early_header_mutation_extensions": [_strip_what_is_ours()],
        "http_filters": [_authentication(), _buffer(limits), _router()],
        "local_reply_config": local_replies(),
        "access_log": [_access_log(access_log)],
    }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": typed}


def _strip_what_is_ours() -> dict[str, Any]:
    # x-envoy-* would let a caller choose retries and timeouts; Envoy trusts loopback with them.
    removed: list[dict[str, Any]] = [{"remove": header} for header in (CONSUMER_HEADER, "x-request-id")]
    removed.append({"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}})
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": _TYPES + "http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": removed,
        },
    }


def _authentication() -> dict[str, Any]:
    # No credentials here, so what no virtual host opens is refused.
    return {
        "name": AUTH_FILTER,
        "typed_config": {
            "@type": _TYPES + "filters.http.api_key_auth.v3.ApiKeyAuth",
            "key_sources": [{"header": "authorization"}, {"header": "x-api-key"}],
            "forwarding": {"header": CONSUMER_HEADER, "hide_credentials": True},
        },
    }


def _buffer(limits: GatewayLimits) -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.buffer",
        "typed_config": {
            "@type": _TYPES + "filters.http.buffer.v3.Buffer",
            "max_request_bytes": limits.body_bytes,
        },
    }


def _router() -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": _TYPES + "filters.http.router.v3.Router", "suppress_envoy_headers": False},
    }


def _access_log(path: Path) -> dict[str, Any]:
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": _TYPES + "access_loggers.file.v3.FileAccessLog",
            "path": str(path),
            "log_format": {"json_format": ACCESS_LOG_FIELDS},
        },
    }
