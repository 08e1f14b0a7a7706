"""Addresses, splits, mirrors and retirement, as callers meet them."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter

import pytest

from mlcycle_nb.serving.gateway import WHOLE, PinnedPlan

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def sockets(replicas):
    return {7: [replicas.start(7, 0), replicas.start(7, 1)], 8: [replicas.start(8)]}


def test_addresses(served, planner, sockets):
    """Both protocols, a version's own address and the tester's header reach the right version, unnamed in the path."""
    planner.apply({7: WHOLE}, sockets)
    reached = {
        path: served.ask(path)[2]
        for path in (
            "/v2/models/digits/infer",
            "/v2/models/digits",
            "/v2/models/digits/versions/8/infer",
            "/v2/models/digits/versions/8",
            "/models/digits/invocations",
            "/models/digits/versions/8/invocations",
        )
    }
    assert {path: (seen["version"], seen["path"]) for path, seen in reached.items()} == {
        "/v2/models/digits/infer": ("7", "/v2/models/digits/infer"),
        "/v2/models/digits": ("7", "/v2/models/digits"),
        "/v2/models/digits/versions/8/infer": ("8", "/v2/models/digits/infer"),
        "/v2/models/digits/versions/8": ("8", "/v2/models/digits"),
        "/models/digits/invocations": ("7", "/invocations"),
        "/models/digits/versions/8/invocations": ("8", "/invocations"),
    }
    tester = {"x-mlcycle-version": "8"}
    assert served.ask(headers=tester)[2]["version"] == "8"
    assert served.ask("/models/digits/invocations", headers=tester)[2]["version"] == "8"


def test_a_public_client(served, gateway):
    """tritonclient finds the server alive and ready, with a key."""
    tritonclient = pytest.importorskip("tritonclient.http")
    client = tritonclient.InferenceServerClient(gateway.url.removeprefix("http://"))
    assert client.is_server_live(headers=served.headers)
    assert client.is_server_ready(headers=served.headers)
    assert not client.is_server_live()
    assert client.get_server_metadata(headers=served.headers)["name"] == "mlcycle"
    client.close()


def test_proxy_variables_do_not_matter_to_host(served, gateway):
    """`localhost` and the number both name the gateway; the scheme of a browser's own page is allowed."""
    port = gateway.url.rpartition(":")[2]
    for origin in ({}, {"Origin": f"http://localhost:{port}"}):
        request = urllib.request.Request(f"http://localhost:{port}/v2", headers={**served.headers, **origin})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as response:
            assert json.load(response)["name"] == "mlcycle"


def test_split_and_plan_read_back(served, gateway, planner, sockets):
    """A tenth means about a tenth; what Envoy reports is what was planned."""
    plan = planner.plan({7: 9000, 8: 1000}, sockets, mirror=((8, 2500),))
    gateway.apply(plan)
    assert gateway.in_force() == {"digits": {7: 9000, 8: 1000}}
    assert gateway.mirrors() == {"digits": {8: 2500}}
    assert gateway.plan_in_force() == f"1.{plan.generation}"
    versions = Counter(served.ask()[2]["version"] for _ in range(1000))
    assert 50 < versions["8"] < 160  # 1,000 draws at .1: outside of this once in some 10**6 runs


def test_sticky_callers(served, planner, sockets):
    """The same sticky text gets the same version; a growing weight only moves callers towards it."""
    callers = [f"patient-{number}" for number in range(60)]

    def versions():
        return {caller: served.ask(headers={"x-mlcycle-sticky": caller})[2]["version"] for caller in callers}

    planner.apply({7: 8000, 8: 2000}, sockets)
    first = versions()
    assert versions() == first
    planner.apply({7: 4000, 8: 6000}, sockets)
    second = versions()
    assert all(second[caller] == "8" for caller in callers if first[caller] == "8")
    assert set(first.values()) == set(second.values()) == {"7", "8"}
    assert Counter(second.values())["8"] > Counter(first.values())["8"]


def test_mirror(served, planner, sockets, replicas, access_rows, wait_for):
    """The copy carries the same id and is marked by its host; callers and the access log never see it."""
    planner.apply({7: WHOLE}, sockets, mirror=((8, WHOLE),))
    answers = [served.ask() for _ in range(20)]
    assert {seen["version"] for _, _, seen in answers} == {"7"}
    ids = {headers["x-request-id"] for _, headers, _ in answers}
    wait_for(lambda: len(replicas.seen()) == 40)
    copies = [dict(seen["headers"]) for seen in replicas.seen() if seen["version"] == "8"]
    assert {copy["x-request-id"] for copy in copies} == ids
    assert {copy["host"] for copy in copies} == {"replica-shadow"}
    assert {copy["x-consumer"] for copy in copies} == {"notebook"}
    assert len(access_rows(20)) == 20


def test_mirror_cannot_hurt(served, planner, sockets, replicas):
    """A mirror that fails, or is dead, leaves the caller's answer as it is."""
    planner.apply({7: WHOLE}, sockets, mirror=((8, WHOLE),))
    replicas.signal(8)
    assert {served.ask()[0] for _ in range(50)} == {200}


def test_retirement(served, planner, sockets, access_rows):
    """The old address warns, then shares with the successor, then answers 410 and names it."""
    headers = {"Deprecation": "@1767225600", "Sunset": "Thu, 01 Jan 2026 00:00:00 GMT", "X-Percent": "50%REQ(x)%"}
    half = PinnedPlan(version=7, split=((7, 5000), (8, 5000)), headers=headers)
    planner.apply({8: WHOLE}, sockets, pinned=(half,))
    answers = [served.ask("/v2/models/digits/versions/7/infer") for _ in range(40)]
    assert {seen["version"] for _, _, seen in answers} == {"7", "8"}
    assert {seen["path"] for _, _, seen in answers} == {"/v2/models/digits/infer"}
    for name, value in headers.items():
        assert answers[0][1][name.lower()] == value
    gone = PinnedPlan(version=7, gone=True, successor="digits/8", headers={"Sunset": headers["Sunset"]})
    planner.apply({8: WHOLE}, {8: sockets[8]}, pinned=(gone,))
    status, fields, problem = served.ask("/v2/models/digits/versions/7/infer")
    assert (status, problem["successor"]) == (410, "digits/8")
    assert fields["link"] == '</v2/models/digits/versions/8>; rel="successor-version"'
    assert fields["sunset"] == headers["Sunset"]
    assert served.ask("/models/digits/versions/7/invocations")[0] == 410
    rows = access_rows(42)
    assert {row.requested_version for row in rows} == {7}
    assert {row.version for row in rows} == {7, 8, None}
    assert {row.consumer for row in rows} == {"notebook"}


def test_model_gone(served, gateway, planner):
    """A model whose last version is retired answers 410 everywhere."""
    planner.apply({}, {}, gone=True, successor="digits2")
    status, fields, problem = served.ask()
    assert (status, problem["successor"]) == (410, "digits2")
    assert fields["link"] == '</v2/models/digits2>; rel="successor-version"'
    assert gateway.in_force() == {}
