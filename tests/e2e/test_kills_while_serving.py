"""Kill -9 of each part under load: what was asked for is reached, and callers notice nothing but Envoy's own death."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from mlcycle_nb.deployment.records import Rollout
from mlcycle_nb.deployment.sockets import process_name
from mlcycle_nb.store.audit import events
from mlcycle_nb.supervisor.start import find_supervisor
from mlcycle_nb.testing import Traffic

from .conftest import BETTER, ENVIRONMENT, GOOD, MODEL, PERMUTED, Served, kill, report, supervisor_of, until

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def stable(served: Served) -> Served:
    """Version 1 is stable, with two replicas that take requests."""
    served.bring_stable(GOOD)
    return served


@pytest.fixture
def load(stable: Served) -> Iterator[Traffic]:
    """Requests that go on through the whole test."""
    with stable.load() as traffic:
        traffic.wait_for(100)
        yield traffic


def canary(served: Served, version: int, **options: object):
    return served.workspace.deployment.deploy_model(
        f"{MODEL}/{version}",
        ENVIRONMENT,
        "canary",
        steps="20,60,100",
        interval="1s",
        min_requests=30,
        mirror=60,
        warm="1s",
        **options,
    )


def share_of_canary(record: Rollout) -> int:
    return max((event.weight or 0 for event in record.history), default=0)


@pytest.mark.parametrize(
    ("version", "phase", "stays"),
    [(BETTER, "completed", BETTER), (PERMUTED, "rolled_back", GOOD)],
    ids=["a good canary", "a quietly wrong canary"],
)
def test_supervisor_killed_during_a_canary(
    stable: Served, load: Traffic, request: pytest.FixtureRequest, version: int, phase: str, stays: int
) -> None:
    """The rollout comes to its end all the same, whoever waits for it brings the supervisor back, nothing fails."""
    handle = canary(stable, version)
    first = until(lambda: share_of_canary(handle.record) > 0 and supervisor_of(stable.workspace))
    before = handle.record
    kill(first)
    dead_at, answered = time.monotonic(), len(load.answers)
    load.wait_for(answered + 50)  # traffic needs no supervisor

    assert handle.record.phase == before.phase == "progressing"
    assert find_supervisor(stable.workspace.home) is None
    ended = handle.wait(120)
    seconds = time.monotonic() - dead_at
    load.wait_for(len(load.answers) + 100)
    load.stop()

    second = supervisor_of(stable.workspace)
    report(request, f"supervisor killed in {before.place}: {phase} {seconds:.1f} s later; {load}")
    assert second != first
    assert (ended.phase, stable.stable) == (phase, stays), ended.reason
    assert load.failed == []
    told = [entry["event"] for entry in events(stable.workspace.store, subject=f"rollout:{handle.id}")]
    assert told.count("rollout.created") == told.count(f"rollout.{phase}") == 1
    if version == PERMUTED:
        assert "disagree" in ended.reason
    assert stable.workspace.verify_audit().intact


def test_replica_killed(stable: Served, load: Traffic, request: pytest.FixtureRequest) -> None:
    """One replica of two dies three times over: the other answers, the dead one comes back."""
    seconds = []
    for index in (0, 1, 0):
        name = process_name(ENVIRONMENT, MODEL, GOOD, index)
        victim = stable.process(name)
        began = time.monotonic()
        kill(victim)
        until(lambda name=name, victim=victim: stable.workspace.context.processes.get(name) not in (None, victim))
        until(lambda: stable.ready(GOOD) == 2)
        seconds.append(time.monotonic() - began)
        load.wait_for(len(load.answers) + 50)
    load.stop()

    report(request, f"replica killed 3 times: back after {', '.join(f'{s:.1f} s' for s in seconds)}; {load}")
    assert load.failed == []
    assert set(load.versions()) == {str(GOOD)}


def test_envoy_killed(stable: Served, load: Traffic, request: pytest.FixtureRequest) -> None:
    """Requests fail only from its death until it is back at the same address; afterwards none does."""
    gateway = stable.process(f"gateway-{ENVIRONMENT}")
    before = len(load.answers)
    assert load.failed == []
    began = time.monotonic()
    kill(gateway)
    until(lambda: answers(stable))
    seconds = time.monotonic() - began
    load.wait_for(len(load.answers) + load.concurrency)  # those that were asked while it was away
    healed = len(load.answers)
    load.wait_for(healed + 200)
    load.stop()

    lost = len([answer for answer in load.answers[before:healed] if answer.status != 200])
    report(request, f"Envoy killed: back after {seconds:.2f} s, {lost} requests failed meanwhile; {load}")
    assert stable.process(f"gateway-{ENVIRONMENT}") != gateway
    assert [answer for answer in load.answers[healed:] if answer.status != 200] == []
    assert {answer.status for answer in load.failed} <= {0}, "a failed request never reached a server"


def test_everything_killed(stable: Served, load: Traffic, request: pytest.FixtureRequest) -> None:
    """Supervisor, Envoy and all replicas at once: one call brings the whole back to what was declared."""
    names = [f"gateway-{ENVIRONMENT}", *(process_name(ENVIRONMENT, MODEL, GOOD, index) for index in (0, 1))]
    victims = [supervisor_of(stable.workspace), *(stable.process(name) for name in names)]
    killers = [threading.Thread(target=kill, args=(victim,)) for victim in victims]
    began = time.monotonic()
    for killer in killers:
        killer.start()
    for killer in killers:
        killer.join()

    stable.workspace.context.ensure_supervisor()
    until(lambda: answers(stable))
    seconds = time.monotonic() - began
    until(lambda: stable.ready(GOOD) == 2)
    load.wait_for(len(load.answers) + load.concurrency)
    healed = len(load.answers)
    load.wait_for(healed + 200)
    load.stop()

    report(request, f"everything killed: answers again after {seconds:.1f} s")
    assert [answer for answer in load.answers[healed:] if answer.status != 200] == []


def answers(served: Served) -> bool:
    """Whether the gateway answers a request for a prediction."""
    body = {"instances": served.rows[:1].tolist()}
    try:
        return (
            httpx.post(
                f"{served.url}/models/{MODEL}/invocations", json=body, headers=served.authorized, trust_env=False
            ).status_code
            == 200
        )
    except httpx.HTTPError:
        return False
