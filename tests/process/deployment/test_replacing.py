"""Blue-green, rolling, and killed replicas and gateways, under load."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

import pytest

from mlcycle_nb.deployment.records import Gateway, Revision

from .conftest import ENVIRONMENT, Deployed, until

pytestmark = pytest.mark.timeout(400)


def ready(deployed: Deployed, version: int) -> int:
    return int(deployed.store.observed(Revision, f"{ENVIRONMENT}/digits/{version}").get("ready", 0))


def test_blue_green_switches_without_a_failed_request(deployed: Deployed) -> None:
    """All requests move at once; blue stays warm until its time is over."""
    deployed.up(1)
    with deployed.load() as load:
        load.wait_for(300)
        record = deployed.deploy(2, strategy="blue-green", interval="1s", mirror=50, warm="1h").wait(120)
        load.wait_for(len(load.answers) + 100)

    print(record.history, load)
    assert record.phase == "completed", record.reason
    assert load.failed == []
    assert load.answers[-1].version == "2"
    assert ready(deployed, 1) == 2


def test_a_wrong_green_gives_way_to_blue(deployed: Deployed) -> None:
    """After the switch blue still answers copies, and their disagreement brings it back."""
    deployed.up(1)
    with deployed.load() as load:
        load.wait_for(300)
        record = deployed.deploy(3, strategy="blue-green", interval="30s", mirror=100, watch="latency").wait(120)
        load.wait_for(len(load.answers) + 100)

    assert record.phase == "rolled_back"
    assert "disagreement" in record.reason
    assert load.failed == []
    assert load.answers[-1].version == "1"


def test_rolling_replaces_one_by_one(deployed: Deployed) -> None:
    """Replica by replica, one more than needed at a time."""
    deployed.up(1)
    with deployed.load() as load:
        load.wait_for(100)
        record = deployed.deploy(2, strategy="rolling", interval="500ms", warm="1s").wait(120)
        load.wait_for(len(load.answers) + 100)

    print(record.history, load)
    assert record.phase == "completed", record.reason
    assert load.failed == []
    assert set(load.versions()) == {"1", "2"}
    until(lambda: ready(deployed, 1) == 0)


def test_kill_9_of_one_replica_of_two(deployed: Deployed) -> None:
    """The other answers, the dead one comes back at once, nobody notices; three times over."""
    deployed.up(1)
    with deployed.load() as load:
        for turn in range(3):
            load.wait_for(len(load.answers) + 200)
            deployed.kill(f"replica-{ENVIRONMENT}.digits.1.{turn % 2}")
            until(lambda: ready(deployed, 1) == 1)
            until(lambda: ready(deployed, 1) == 2)
        load.wait_for(len(load.answers) + 100)

    print(load)
    assert load.failed == []
    assert deployed.store.observed(Revision, f"{ENVIRONMENT}/digits/1")["restarts"] == 3


def test_kill_9_of_the_gateway(deployed: Deployed) -> None:
    """It is back with the same address, keys and weights; what failed meanwhile is the kill's alone."""
    deployed.up(1)
    with deployed.load(per_second=100) as load:
        load.wait_for(100)
        deployed.kill(f"gateway-{ENVIRONMENT}")
        began = time.monotonic()
        until(lambda: load.answers[-1].status == 0, 5)
        until(lambda: load.answers[-1].status == 200, 20)
        back = time.monotonic() - began
        load.wait_for(len(load.answers) + 100)

    print(f"gateway back after {back:.2f} s; {load}")
    assert {answer.status for answer in load.failed} == {0}
    assert deployed.store.observed(Gateway, ENVIRONMENT)["starts"] == 2


def test_a_silent_replica_is_replaced(deployed: Deployed) -> None:
    """A replica that is stopped, not dead, answers no check: it is killed and started again."""
    deployed.up(1)
    identity = deployed.workspace.context.processes.get(f"replica-{ENVIRONMENT}.digits.1.0")
    assert identity is not None
    os.kill(identity.pid, signal.SIGSTOP)

    until(lambda: not identity.alive(), 40)
    until(lambda: ready(deployed, 1) == 2, 20)


def test_a_replica_that_is_suspended_while_it_starts_is_replaced(deployed: Deployed) -> None:
    """It would never answer its golden batch; the rollout ends as planned, and not by its deadline."""
    deployed.up(1)
    handle = deployed.deploy(2, strategy="all-at-once")
    find = partial(deployed.workspace.context.processes.get, f"replica-{ENVIRONMENT}.digits.2.0")
    until(lambda: find() is not None)
    identity = find()
    assert identity is not None
    os.kill(identity.pid, signal.SIGSTOP)

    assert handle.wait(60).phase == "completed"
    assert not identity.alive()


def test_down_and_up_again(deployed: Deployed) -> None:
    """Down stops everything; the next client finds the same version at the same address."""
    deployed.up(1)
    with deployed.manager.client("digits", ENVIRONMENT) as client:
        before = client.base_url
    deployed.workspace.down()
    assert deployed.workspace.context.processes.names() == []

    with deployed.manager.client("digits", ENVIRONMENT) as client:
        answer = client.predict(deployed.built.rows[:1])
    assert (client.base_url, answer.version) == (before, 1)
