"""Plan -> Envoy routes: who may ask, what is answered here, and which cluster gets the rest.

Addresses of a model ``digits``, in the order in which they are tried::

    /v2/models/digits/feedback             the process that takes labels, whichever version answered
    /v2/models/digits/versions/7[/...]     version 7, rewritten to /v2/models/digits[/...]
    /models/digits/versions/7/invocations  version 7, rewritten to /invocations
    /v2/models/digits/versions/...         404
    /v2/models/digits[/...]                the split; with `x-mlcycle-version: 7` version 7
    /models/digits/invocations             the same, rewritten to /invocations

A replica therefore never sees a version in a path. `x-mlcycle-sticky: TEXT` keeps all requests with that text at one
version while the weights stay; with two versions, growing one's weight only ever moves callers towards it.
"""

from __future__ import annotations

import json
from typing import Any

from mlcycle_nb.serving.gateway.clusters import INTAKE, ClusterName, split_clusters
from mlcycle_nb.serving.gateway.limits import GatewayLimits, seconds
from mlcycle_nb.serving.gateway.plan import WHOLE, GatewayPlan, PinnedPlan, ServicePlan
from mlcycle_nb.serving.gateway.problems import direct, set_header

ROUTES_TYPE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
ROUTES_NAME = "mlcycle"
PLAN_METADATA = "mlcycle"
AUTH_FILTER = "envoy.filters.http.api_key_auth"
_AUTH = "type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute"
_FILTER_CONFIG = "type.googleapis.com/envoy.config.route.v3.FilterConfig"

CONSUMER_HEADER = "x-consumer"
STICKY_HEADER = "x-mlcycle-sticky"
VERSION_HEADER = "x-mlcycle-version"
UPSTREAM_HOST = "replica"
"""Host that replicas see; Envoy appends ``-shadow`` to it on mirrored requests."""


def routes(plan: GatewayPlan, limits: GatewayLimits, port: int) -> list[dict[str, Any]]:
    """Return the RDS resources of a plan, for a gateway that listens on `port`."""
    authorities = [f"127.0.0.1:{port}", f"localhost:{port}"]
    table: list[dict[str, Any]] = [_foreign_origin(port), _other_methods()]
    for service in sorted(plan.services, key=lambda service: service.model):
        table += _service_routes(service, plan, limits)
    table += _server_routes()
    table.append({"name": "denied", "match": {"prefix": "/"}, **direct(404)})
    here = {
        "name": "here",
        "domains": authorities,
        "typed_per_filter_config": {AUTH_FILTER: _keys(plan)},
        "routes": table,
    }
    elsewhere = {
        "name": "elsewhere",
        "domains": ["*"],
        "typed_per_filter_config": {AUTH_FILTER: _open_to_all()},
        "routes": [{"name": "wrong-host", "match": {"prefix": "/"}, **direct(421)}],
    }
    return [
        {
            "@type": ROUTES_TYPE,
            "name": ROUTES_NAME,
            # Read back to know which plan is in force; Envoy keeps the old file's version when only that differs.
            "metadata": {"filter_metadata": {PLAN_METADATA: {"plan": f"{plan.fence}.{plan.generation}"}}},
            "max_direct_response_body_size_bytes": 16_384,
            "virtual_hosts": [here, elsewhere],
        }
    ]


def _keys(plan: GatewayPlan) -> dict[str, Any]:
    # Keys live in the routes: an update of routes drains no connection, one of the listener drains all.
    return {
        "@type": _AUTH,
        "credentials": [{"key": key, "client": name} for name, key in sorted(plan.consumers.items())],
        # Repeated here: keys in a route take the filter's key sources, but drop its forwarding without a word.
        "forwarding": {"header": CONSUMER_HEADER, "hide_credentials": True},
    }


def _open_to_all() -> dict[str, Any]:
    return {"@type": _FILTER_CONFIG, "disabled": True}


def _foreign_origin(port: int) -> dict[str, Any]:
    own = rf"http://(127\.0\.0\.1|localhost):{port}"
    return {
        "name": "foreign-origin",
        "match": {
            "prefix": "/",
            "headers": [{"name": "origin", "string_match": {"safe_regex": {"regex": own}}, "invert_match": True}],
        },
        "typed_per_filter_config": {AUTH_FILTER: _open_to_all()},
        **direct(403),
    }


def _other_methods() -> dict[str, Any]:
    allowed = {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD|POST"}}, "invert_match": True}
    answer = direct(405)
    answer["response_headers_to_add"].append(set_header("allow", "GET, HEAD, POST"))
    return {"name": "method", "match": {"prefix": "/", "headers": [allowed]}, **answer}


def _server_routes() -> list[dict[str, Any]]:
    about = {"name": "mlcycle", "version": "2", "extensions": ["binary_tensor_data"]}
    answers = {
        "/v2": about,
        "/v2/health/live": {"live": True},
        "/v2/health/ready": {"ready": True},
    }
    return [
        {
            "name": "server",
            "match": {"path": path},
            "direct_response": {"status": 200, "body": {"inline_string": json.dumps(answer)}},
            "response_headers_to_add": [set_header("content-type", "application/json")],
        }
        for path, answer in answers.items()
    ]


def _service_routes(service: ServicePlan, plan: GatewayPlan, limits: GatewayLimits) -> list[dict[str, Any]]:
    model, base = service.model, f"/v2/models/{service.model}"
    planned = {pinned.version: pinned for pinned in service.pinned}
    living = {cluster.version for cluster in plan.clusters if cluster.model == model}
    table: list[dict[str, Any]] = [_feedback(model, limits)] if plan.intake else []
    for version in sorted(living | set(planned)):
        pinned = planned.get(version) or PinnedPlan(version=version, split=((version, WHOLE),))
        table += _pinned_routes(model, pinned, limits)
    table.append({"name": "denied", "match": {"path_separated_prefix": f"{base}/versions"}, **direct(404)})
    for version in sorted(living):
        action = _action(f"tester:{model}:{version}", model, ((version, WHOLE),), limits)
        chosen = {"name": VERSION_HEADER, "string_match": {"exact": str(version)}}
        table += _both_protocols(model, "", action, headers=[chosen])
    other = {"name": VERSION_HEADER, "present_match": True}
    table.append(
        {"name": "denied", "match": {"path_separated_prefix": base, "headers": [other]}, **direct(404)},
    )
    table.append(
        {"name": "denied", "match": {"path": f"/models/{model}/invocations", "headers": [other]}, **direct(404)},
    )
    if service.gone:
        return table + _both_protocols(model, "", _gone(f"gone:{model}:", model, {}, service.successor))
    action = _action(f"default:{model}", model, service.split, limits)
    action["route"]["request_mirror_policies"] = _mirrors(service)
    return table + _both_protocols(model, "", action)


def _feedback(model: str, limits: GatewayLimits) -> dict[str, Any]:
    # Before all others, and also for a model that is gone: labels come late. Sent twice, they count once.
    return {
        "name": f"feedback:{model}",
        "match": {"path": f"/v2/models/{model}/feedback"},
        "route": {
            "cluster": str(INTAKE),
            "host_rewrite_literal": UPSTREAM_HOST,
            "timeout": seconds(limits.answer_seconds),
            "retry_policy": _retries(limits),
        },
    }


def _pinned_routes(model: str, pinned: PinnedPlan, limits: GatewayLimits) -> list[dict[str, Any]]:
    if pinned.gone:
        action = _gone(f"gone:{model}:{pinned.version}", model, pinned.headers, pinned.successor)
    else:
        action = _action(f"pinned:{model}:{pinned.version}", model, pinned.split, limits)
        action["response_headers_to_add"] = [set_header(*item) for item in sorted(pinned.headers.items())]
    return _both_protocols(model, f"/versions/{pinned.version}", action)


def _both_protocols(
    model: str, suffix: str, action: dict[str, Any], *, headers: list[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Return the Open Inference Protocol route and the MLflow one for the same answer."""
    inference: dict[str, Any] = {"path_separated_prefix": f"/v2/models/{model}{suffix}"}
    scoring: dict[str, Any] = {"path": f"/models/{model}{suffix}/invocations"}
    if headers:
        inference["headers"] = headers
        scoring["headers"] = headers
    if "route" not in action:
        return [{**action, "match": inference}, {**action, "match": scoring}]
    return [
        {**action, "match": inference, "route": {**action["route"], "prefix_rewrite": f"/v2/models/{model}"}},
        {**action, "match": scoring, "route": {**action["route"], "prefix_rewrite": "/invocations"}},
    ]


def _gone(name: str, model: str, headers: dict[str, str], successor: str | None) -> dict[str, Any]:
    if successor is None:
        return {
            "name": name,
            **_with_headers(direct(410, "this model version is retired and has no successor"), headers),
        }
    answer = direct(410, f"this model version is retired; use {successor}", successor=successor)
    if not any(header.lower() == "link" for header in headers):
        other, _, version = successor.partition("/")
        address = f"/v2/models/{other}" + (f"/versions/{version}" if version else "")
        headers = {**headers, "Link": f'<{address}>; rel="successor-version"'}
    return {"name": name, **_with_headers(answer, headers)}


def _with_headers(answer: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    answer["response_headers_to_add"] += [set_header(*item) for item in sorted(headers.items())]
    return answer


def _mirrors(service: ServicePlan) -> list[dict[str, Any]]:
    return [
        {
            "cluster": str(ClusterName(service.model, version)),
            "runtime_fraction": {"default_value": {"numerator": weight, "denominator": "TEN_THOUSAND"}},
        }
        for version, weight in sorted(service.mirror)
        if weight > 0
    ]


def _action(name: str, model: str, split: tuple[tuple[int, int], ...], limits: GatewayLimits) -> dict[str, Any]:
    weights = [{"name": str(cluster), "weight": weight} for cluster, weight in split_clusters(model, split)]
    return {
        "name": name,
        "route": {
            "weighted_clusters": {"clusters": weights, "use_hash_policy": True},
            "hash_policy": [{"header": {"header_name": STICKY_HEADER}}],
            "host_rewrite_literal": UPSTREAM_HOST,
            "timeout": seconds(limits.answer_seconds),
            "retry_policy": _retries(limits),
            "hedge_policy": {"hedge_on_per_try_timeout": True},
        },
    }


def _retries(limits: GatewayLimits) -> dict[str, Any]:
    # `reset` covers the connection that a replica closes or loses after the request was sent, so a request may run
    # twice, as it may when a replica is slow; both runs carry the same x-request-id. An answer of the replica, whatever
    # its status, is never retried.
    previous_hosts = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    priorities = "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
    return {
        "retry_on": "connect-failure,refused-stream,reset",
        "num_retries": limits.retries,
        "per_try_timeout": seconds(limits.attempt_seconds),
        "retry_back_off": {"base_interval": "0.010s", "max_interval": "0.100s"},
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type": f"type.googleapis.com/{previous_hosts}"},
            }
        ],
        # A dead replica has no request under way, so the balancer likes it best: of two, five more draws would all be
        # the dead one in a quarter of the cases.
        "host_selection_retry_max_attempts": 20,
        # Two attempts at the version itself, then at the version it falls back on.
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {"@type": f"type.googleapis.com/{priorities}", "update_frequency": 2},
        },
    }
