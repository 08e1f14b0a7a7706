"""No request fails while the plan changes or a replica dies: 16 clients ask all the time."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from mlcycle_nb.serving.gateway import WHOLE

pytestmark = pytest.mark.timeout(240)


def test_weight_steps(gateway, planner, replicas, served, load):
    """A canary grows step by step to all of the traffic, and goes back in one."""
    sockets = {7: [replicas.start(7, 0), replicas.start(7, 1)], 8: [replicas.start(8)]}
    with load() as clients:
        for weight in (500, 2500, 5000, WHOLE, 0):
            planner.apply({7: WHOLE - weight, 8: weight}, sockets)
            assert gateway.in_force() == {"digits": {7: WHOLE - weight, 8: weight}}
            clients.wait_for(500)
    assert clients.failures == []
    assert clients.requests > 2500
    assert {version for _, version in clients.counts} == {"7", "8"}
    assert len(clients.request_ids) == clients.requests, "every request has an id of its own"


def test_versions_come_and_go(gateway, planner, replicas, served, load):
    """Four times a version is added, takes everything, and the one before is removed and stopped."""
    sockets = {7: [replicas.start(7, 0), replicas.start(7, 1)]}
    with load(body={"sleep": 0.002}) as clients:
        for version in (8, 9, 10, 11):
            sockets[version] = [replicas.start(version)]
            planner.apply({version: WHOLE}, sockets)
            del sockets[version - 1]
            applied = planner.apply({version: WHOLE}, sockets)
            assert applied.drained
            assert f"digits/{version - 1}" in applied.idle
            for index in (0, 1) if version == 8 else (0,):
                replicas.signal(version - 1, index, signal.SIGTERM)
            clients.wait_for(300)
    assert clients.failures == []
    assert clients.counts[200, "11"] >= 300
    gone = gateway.tidy(after_seconds=0)
    assert {"digits/7", "digits/8", "digits/9", "digits/10"} <= set(gone)
    assert set(gateway.replicas()) == {"digits/11"}


def test_key_changes(gateway, planner, replicas, served, load, client):
    """Keys are made and revoked while others ask; a revoked key stops at once."""
    sockets = {7: [replicas.start(7, 0), replicas.start(7, 1)]}
    other = client("another-key-0123456789")
    with load() as clients:
        for _ in range(10):
            planner.apply({7: WHOLE}, sockets, {"notebook": load().key, "other": "another-key-0123456789"})
            assert other.ask()[0] == 200
            planner.apply({7: WHOLE}, sockets, {"notebook": load().key})
            assert client("another-key-0123456789").ask()[0] == 401
        clients.wait_for(200)
    assert clients.failures == []


def test_kill_of_one_of_two_replicas(gateway, replicas, served, load, wait_healthy):
    """Six kill -9, one replica down at a time, the other answers."""
    with load(body={"sleep": 0.005}) as clients:
        for turn in range(6):
            index = turn % 2
            replicas.signal(7, index)
            clients.wait_for(300)
            replicas.start(7, index)
            wait_healthy(2)
    assert clients.failures == []
    counts = gateway.counts()["digits/7"]
    assert counts.retries > 0, "the kills were felt, and retried"
    assert counts.retries_refused == 0


def test_kill_of_the_only_canary_replica(planner, replicas, served, load, access_rows):
    """A canary with one replica dies: its share is answered by stable, and the log says so."""
    sockets = {7: [replicas.start(7, 0), replicas.start(7, 1)], 8: [replicas.start(8)]}
    planner.apply({7: 5000, 8: 5000}, sockets)
    with load() as clients:
        clients.wait_for(300)
        replicas.signal(8)
        clients.wait_for(1000)
    assert clients.failures == []
    assert clients.counts[200, "8"] > 0
    rows = access_rows(clients.requests)
    fell_back = [row for row in rows if row.fell_back]
    assert len(fell_back) > 200
    assert {(row.version, row.answered_by) for row in fell_back} == {(8, 7)}


def test_hanging_replica(gateway, planner, replicas, served, load, wait_healthy):
    """A stopped replica keeps its connections and answers nothing: health checks take it out, its requests move."""
    gateway.limits = replace(gateway.limits, attempt_seconds=2.0)
    planner.apply({7: WHOLE}, {7: [replicas.start(7, 0), replicas.start(7, 1)]})
    with load(clients=8) as clients:
        clients.wait_for(200)
        replicas.signal(7, 0, signal.SIGSTOP)
        wait_healthy(1)
        clients.wait_for(500)
        replicas.signal(7, 0, signal.SIGCONT)
        wait_healthy(2)
    assert clients.failures == []


def test_envoy_killed(gateway, planner, replicas, served, load, client):
    """After kill -9 of Envoy the next `ensure` brings back address, weights and keys; only its own death costs."""
    sockets = {7: [replicas.start(7, 0), replicas.start(7, 1)], 8: [replicas.start(8)]}
    planner.apply({7: 9000, 8: 1000}, sockets)
    url, before = gateway.url, gateway.in_force()
    identity = gateway.process.context.processes.get(gateway.process.name)
    os.kill(identity.pid, signal.SIGKILL)
    gateway.ensure()
    assert gateway.process.context.processes.get(gateway.process.name).pid != identity.pid
    assert gateway.url == url
    assert gateway.in_force() == before == {"digits": {7: 9000, 8: 1000}}
    assert client().ask()[0] == 200
    with load() as clients:
        clients.wait_for(300)
    assert clients.failures == []
