"""Fences, crashes in the middle of a change, restarts, and the access log of a real Envoy."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from dataclasses import replace

import pytest

from mlcycle_nb.errors import Conflict, EngineError
from mlcycle_nb.serving.gateway import WHOLE, Gateway, totals

pytestmark = pytest.mark.timeout(240)


def test_stale_leader_is_refused(gateway, planner, replicas, served):
    """A lower fence or generation, or another plan under the same number, changes nothing."""
    sockets = {7: [replicas.start(7, 0), replicas.start(7, 1)], 8: [replicas.start(8)]}
    plan = replace(planner.plan({7: 7000, 8: 3000}, sockets), fence=5)
    gateway.apply(plan)
    before = {file.name: file.read_bytes() for file in gateway.files.folder.glob("*.json")}
    other = planner.plan({7: 0, 8: WHOLE}, sockets)
    for stale in (
        replace(other, fence=4, generation=plan.generation + 1),
        replace(other, fence=6, generation=plan.generation - 1),
        replace(other, fence=5, generation=plan.generation),
    ):
        with pytest.raises(Conflict):
            gateway.apply(stale)
    assert {file.name: file.read_bytes() for file in gateway.files.folder.glob("*.json")} == before
    assert gateway.in_force() == {"digits": {7: 7000, 8: 3000}}
    gateway.apply(replace(plan, fence=6))
    assert gateway.plan_in_force() == f"6.{plan.generation}", "a new leader may confirm the plan"


CRASHING = """
import json, sys
from pathlib import Path
from mlcycle_nb.context import open_context
from mlcycle_nb.serving.gateway import Gateway, GatewayPlan, RevisionCluster, ServicePlan
from mlcycle_nb.settings import load_settings

home, key, sockets = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
context = open_context(Path(home), load_settings(environ={}))
Gateway(context, "production").apply(GatewayPlan(
    fence=1, generation=50,
    services=(ServicePlan(model="digits", split=((8, 10_000),)),),
    clusters=tuple(RevisionCluster(model="digits", version=int(v), sockets=tuple(s)) for v, s in sockets.items()),
    consumers={"notebook": key},
))
"""


@pytest.mark.parametrize("point", ["after_claim", "after_endpoints", "after_clusters", "after_routes", "after_drain"])
def test_crash_in_a_change(gateway, planner, replicas, served, load, wait_for, point):
    """Killed at any point, the writer leaves a gateway that answers; the same plan, applied again, completes it."""
    sockets = {8: [replicas.start(8)]}
    home, key = str(gateway.process.context.home), served.headers["authorization"][7:]
    with load(clients=4) as clients:
        ended = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(CRASHING), home, key, json.dumps(sockets)],
            env={**os.environ, "MLCYCLE_CRASH_AT": f"gateway.{point}"},
            check=False,
            timeout=30,
        )
        assert ended.returncode == -signal.SIGKILL
        clients.wait_for(50)
        reached = point in {"after_routes", "after_drain"}
        wait_for(lambda: gateway.in_force() == {"digits": {8 if reached else 7: WHOLE}})
        planner.generation = 49
        applied = planner.apply({8: WHOLE}, sockets)
        assert applied.drained
        clients.wait_for(50)
    assert clients.failures == []
    assert gateway.in_force() == {"digits": {8: WHOLE}}


def test_adoption(gateway, context, served):
    """An Envoy that lives is adopted by another client of the workspace, never started twice."""
    pid = context.processes.get(gateway.process.name).pid
    second = Gateway(context, "production")
    second.ensure()
    assert context.processes.get(second.process.name).pid == pid
    assert second.url == gateway.url
    assert second.in_force() == gateway.in_force() == {"digits": {7: WHOLE}}


def test_restart_time(gateway, context, served):
    """After kill -9 of Envoy, `ensure` has it answering again; the address stays."""
    url = gateway.url
    os.kill(context.processes.get(gateway.process.name).pid, signal.SIGKILL)
    started = time.perf_counter()
    while gateway.process.alive():
        pass
    gateway.ensure()
    print(f"Envoy answers {time.perf_counter() - started:.2f} s after its kill")
    assert gateway.url == url
    assert gateway.in_force() == {"digits": {7: WHOLE}}


def test_port_taken(gateway, served):
    """A port that somebody else took is an error that names it, not a gateway elsewhere."""
    gateway.stop()
    port = int(gateway.url.rpartition(":")[2])
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        with pytest.raises(EngineError, match=str(port)):
            gateway.ensure()
    gateway.ensure()
    assert gateway.in_force() == {"digits": {7: WHOLE}}


def test_nothing_is_left(gateway, context, served):
    """After `stop`, process, socket and port are gone; admin and keys were this user's only."""
    assert (gateway.process.admin_socket.stat().st_mode & 0o777) == 0o600
    assert (gateway.process.admin_socket.parent.stat().st_mode & 0o777) == 0o700
    for file in gateway.files.folder.glob("*.json"):
        assert (file.stat().st_mode & 0o777) == 0o600, file.name
    gateway.stop()
    assert context.processes.get(gateway.process.name) is None
    assert not gateway.process.admin_socket.exists()
    served.connection.close()
    with pytest.raises(ConnectionRefusedError):
        served.ask()


def test_admin_shows_no_key(gateway, served):
    """Envoy's own dump of its configuration blanks the keys."""
    dump = gateway.admin.request("/config_dump")
    assert b"ApiKeyAuthPerRoute" in dump
    assert served.headers["authorization"][7:].encode() not in dump
    with pytest.raises(EngineError, match="/quitquitquit"):
        gateway.admin.request("/quitquitquit", "POST")


def test_counts_and_breakers(gateway, served, wait_for):
    """Envoy's counters agree with the caller's, and its limits are those that were set."""
    for _ in range(30):
        served.ask()
    counts = gateway.counts()["digits/7"]
    assert (counts.requests, counts.completed, counts.errors, counts.refused) == (30, 30, 0, 0)
    state = gateway.replicas()["digits/7"]
    assert {state.max_retries, state.max_requests, state.max_connections, state.max_pending_requests} == {1024}
    assert set(state.sockets.values()) == {True}
    assert 'envoy_cluster_name="digits/7"' in gateway.admin.prometheus()
    wait_for(lambda: "digits/7" in gateway.admin.latencies())
    latencies = gateway.admin.latencies()["digits/7"]
    assert 0 <= latencies[50.0] <= latencies[99.0] <= latencies[100.0] < 10_000


def test_access_log_over_rotations(gateway, planner, replicas, served, load, access_rows):
    """Every request is one row, through rotations under load."""
    with load(clients=8) as clients:
        rotations = 0
        while rotations < 3:
            clients.wait_for(200)
            rotations += gateway.rotate_access_log(max_bytes=1)
    assert clients.failures == []
    rows = access_rows(clients.requests)
    assert {row.request_id for row in rows} == clients.request_ids
    assert len(rows) == clients.requests
    assert Counter(row.version for row in rows) == {7: clients.requests}
    (one,) = totals(rows).values()
    assert (one.requests, one.model_errors, one.gateway_errors) == (clients.requests, 0, 0)
    assert all(row.duration_ms > 0 and row.consumer == "notebook" and row.time.tzinfo for row in rows)
