"""What is written for Envoy, where a mistake would lose requests without a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcycle_nb.serving.gateway import WHOLE, GatewayPlan, PinnedPlan, RevisionCluster, ServicePlan
from mlcycle_nb.serving.gateway.admin import mirrors_in_force, plan_in_force, weights_in_force
from mlcycle_nb.serving.gateway.clusters import (
    ClusterName,
    cluster_names,
    clusters,
    endpoints,
    sockets_of,
    split_clusters,
    stand_ins,
)
from mlcycle_nb.serving.gateway.limits import GatewayLimits
from mlcycle_nb.serving.gateway.routes import routes

LIMITS = GatewayLimits(max_concurrency=77)


def make(split, *, mirror=(), pinned=(), extra=(), gone=False):
    versions = {v for v, _ in (*split, *mirror)} | {v for p in pinned for v, _ in p.split} | set(extra)
    return GatewayPlan(
        fence=3,
        generation=4,
        services=(ServicePlan(model="digits", split=tuple(split), mirror=mirror, pinned=pinned, gone=gone),),
        clusters=tuple(
            RevisionCluster(model="digits", version=v, sockets=(f"/s/{v}a", f"/s/{v}b")) for v in sorted(versions)
        ),
    )


@st.composite
def splits(draw):
    versions = draw(st.lists(st.integers(1, 99), min_size=1, max_size=5, unique=True))
    cuts = sorted(draw(st.lists(st.integers(0, WHOLE), min_size=len(versions) - 1, max_size=len(versions) - 1)))
    edges = [0, *cuts, WHOLE]
    return tuple((v, b - a) for v, a, b in zip(versions, edges, edges[1:], strict=False))


class TestSplit:
    @given(splits())
    @settings(max_examples=200, deadline=None)
    def test_reads_back(self, split):
        """Whatever split is planned, the routes say the same, and name only clusters that are written."""
        plan = make(split)
        table = json.loads(json.dumps(routes(plan, LIMITS, 8080)[0]))

        assert weights_in_force(table) == {"digits": dict(split)}
        assert plan_in_force(table) == "3.4"
        written = {str(name) for name in cluster_names(plan)}
        assert _named(table) <= written == set(clusters(plan, LIMITS, Path("/x")))
        assert {str(name) for name in endpoints(plan)} == written

    @given(splits())
    @settings(max_examples=100, deadline=None)
    def test_fallback_is_another_living_version(self, split):
        """A version falls back on another one that has requests, and a version alone on none."""
        shares = dict(split)
        for name, weight in split_clusters("digits", split):
            others = {v: w for v, w in split if v != name.version and w > 0}
            if not others or weight == 0:
                assert name.fallback is None
            else:
                assert name.fallback != name.version
                assert shares[name.fallback] == max(others.values())

    def test_growing_weight_keeps_its_callers(self):
        """The order in which Envoy adds the weights up does not depend on the weights."""
        assert [n.version for n, _ in split_clusters("m", ((8, 1), (7, 9999)))] == [7, 8]
        assert [n.version for n, _ in split_clusters("m", ((8, 9999), (7, 1)))] == [7, 8]

    def test_name_reads_back(self):
        """A cluster's name is parsed as it was written."""
        for name in (ClusterName("a-b_c", 7), ClusterName("a", 8, 7)):
            assert ClusterName.parse(str(name)) == name


class TestEndpoints:
    def test_own_replicas_first(self):
        """The fallback's replicas are in the second tier, used only when the first has none."""
        found = {str(name): assignment for name, assignment in endpoints(make(((7, 9000), (8, 1000)))).items()}

        assert sockets_of(found["digits/8"]) == {"/s/8a", "/s/8b"}
        assert [tier["priority"] for tier in found["digits/8~7"]["endpoints"]] == [0, 1]
        assert sockets_of(found["digits/8~7"]) == {"/s/7a", "/s/7b", "/s/8a", "/s/8b"}
        assert found["digits/8~7"]["policy"]["overprovisioning_factor"] >= 200
        hosts = [tier["lb_endpoints"][0]["endpoint"]["hostname"] for tier in found["digits/8~7"]["endpoints"]]
        assert hosts == ["digits/8", "digits/7"]

    def test_stand_in_is_the_heaviest(self):
        """What still goes to a removed cluster is answered by the version with most requests."""
        plan = make(((8, 7000), (9, 3000)))
        (assignment,) = stand_ins(plan, ["digits/7~8"]).values()

        assert assignment["cluster_name"] == "digits/7~8"
        assert sockets_of(assignment) == {"/s/8a", "/s/8b"}
        assert stand_ins(plan, ["other/1"]) == {}


class TestCluster:
    def test_settings_that_lose_requests_by_default(self):
        """Each of these was measured to lose requests at its default."""
        for cluster in clusters(make(((7, WHOLE),)), LIMITS, Path("/x")).values():
            (breaker,) = cluster["circuit_breakers"]["thresholds"]
            for limit in ("max_retries", "max_requests", "max_connections", "max_pending_requests"):
                assert breaker[limit] == 77
            assert cluster["common_lb_config"] == {"healthy_panic_threshold": {"value": 1}, "update_merge_window": "0s"}
            assert cluster["ignore_health_on_host_removal"] is True
            (check,) = cluster["health_checks"]
            assert check["no_traffic_interval"] == check["interval"] == "0.500s"
            assert cluster["outlier_detection"]["enforcing_consecutive_5xx"] == 0


class TestRoutes:
    def test_every_route_needs_a_key(self):
        """Only the answers 403 and 421 are given without one."""
        (table,) = routes(make(((7, WHOLE),)), LIMITS, 8080)
        for host in table["virtual_hosts"]:
            opened = "disabled" in host["typed_per_filter_config"]["envoy.filters.http.api_key_auth"]
            assert opened == (host["domains"] == ["*"])
            for route in host["routes"]:
                if opened or "typed_per_filter_config" in route:
                    assert route["direct_response"]["status"] in {403, 421}

    def test_hosts_are_exact(self):
        """Two names with this port, and a refusal for all others."""
        (table,) = routes(make(((7, WHOLE),)), LIMITS, 8080)
        assert [host["domains"] for host in table["virtual_hosts"]] == [["127.0.0.1:8080", "localhost:8080"], ["*"]]

    def test_last_route_denies(self):
        """What no route knows is 404, so that a valid key does not turn into 401."""
        (table,) = routes(make(((7, WHOLE),)), LIMITS, 8080)
        last = table["virtual_hosts"][0]["routes"][-1]
        assert (last["match"], last["direct_response"]["status"]) == ({"prefix": "/"}, 404)

    def test_pinned_comes_before_the_split(self):
        """Otherwise the model's own prefix would answer for every version."""
        names = [r["name"] for r in routes(make(((7, WHOLE),), extra=(8,)), LIMITS, 1)[0]["virtual_hosts"][0]["routes"]]
        assert names.index("pinned:digits:8") < names.index("default:digits")
        assert names.index("tester:digits:8") < names.index("default:digits")

    def test_percent_is_not_a_command(self):
        """A header's text reaches the caller as it was planned."""
        pinned = PinnedPlan(version=7, split=((7, WHOLE),), headers={"X": "100%REQ(authorization)%"})
        text = json.dumps(routes(make(((7, WHOLE),), pinned=(pinned,)), LIMITS, 1))
        assert "100%%REQ(authorization)%%" in text

    @pytest.mark.parametrize(("weight", "expected"), [(1, {8: 1}), (WHOLE, {8: WHOLE}), (0, {})])
    def test_mirror(self, weight, expected):
        """A mirror of weight zero is none: Envoy would take a missing share for all."""
        (table,) = routes(make(((7, WHOLE),), mirror=((8, weight),)), LIMITS, 1)
        assert mirrors_in_force(table) == {"digits": expected}


def _named(table):
    found = set()
    for host in table["virtual_hosts"]:
        for route in host["routes"]:
            action = route.get("route", {})
            found |= {one["name"] for one in action.get("weighted_clusters", {}).get("clusters", [])}
            found |= {one["cluster"] for one in action.get("request_mirror_policies", [])}
    return found
