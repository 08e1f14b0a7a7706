"""Rollouts under constant load with one signal in each: SIGKILL to a random process at a random moment, or another.

``MLCYCLE_KILL_ROLLOUTS=20 pytest tests/process/deployment/test_random_kills.py -m faults -s`` runs 20 rollouts of each
strategy and prints what was killed when. ``MLCYCLE_KILL_SEED`` names another first seed. SIGSTOP and SIGTERM go to
each kind of process once while replicas start and once while traffic moves.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from mlcycle_nb.deployment.records import Gateway, Revision, Rollout, Service
from mlcycle_nb.store.audit import verify
from mlcycle_nb.supervisor.start import find_supervisor

from .conftest import ENVIRONMENT, Deployed, until

VICTIMS = ("gateway", "supervisor", "new replica", "old replica")
STRATEGIES = ("canary", "blue-green", "rolling", "all-at-once", "shadow")
ROLLOUTS = int(os.environ.get("MLCYCLE_KILL_ROLLOUTS", "20"))
FIRST_SEED = int(os.environ.get("MLCYCLE_KILL_SEED", "1000"))
PATIENCE_SECONDS = 20.0
"""A client sends a request again for this long when it has no connection: documented in docs/deployment.md. A gateway
that is suspended, not dead, is noticed by its silence within that time."""
GOOD_END = {"shadow": "compared"}
SECONDS = {"canary": 5.0, "blue-green": 4.0, "rolling": 6.0, "all-at-once": 2.5, "shadow": 5.0}
"""About how long each takes here, from the order to its end; a kill comes at a random moment of it."""
OPTIONS: dict[str, dict[str, object]] = {
    "canary": {"steps": "30,100", "interval": "500ms", "min_requests": 20, "mirror": 50, "watch": "latency"},
    "blue-green": {"interval": "500ms", "min_requests": 20, "mirror": 50, "watch": "latency"},
    "rolling": {"interval": "300ms"},
    "all-at-once": {},
    "shadow": {"min_requests": 20, "mirror": 100, "watch": "latency"},
}
LIMITS = {"shadow": {"duration": "3s"}}


@dataclass(frozen=True)
class Kill:
    """What was killed, and when after the order."""

    victim: str
    name: str
    after: float
    phase: str


@dataclass(frozen=True)
class Trial:
    """One rollout with one signal in it; who gets it and when is drawn from the seed where it is not said."""

    strategy: str
    seed: int
    signal: signal.Signals = signal.SIGKILL
    victim: str = ""
    early: bool | None = None


def strike_at(deployed: Deployed, victim: str, rollout: Rollout, number: signal.Signals) -> str:
    """Send a signal to one process of a kind; return its name, empty while there is none."""
    if victim == "supervisor":
        identity = find_supervisor(deployed.workspace.home)
        name = "supervisor"
    else:
        version = rollout.target if victim == "new replica" else rollout.base
        prefix = f"gateway-{ENVIRONMENT}" if victim == "gateway" else f"replica-{ENVIRONMENT}.digits.{version}."
        names = sorted(deployed.workspace.context.processes.names(prefix))
        name = names[0] if names else ""
        identity = deployed.workspace.context.processes.get(name) if name else None
    if identity is None or not identity.alive():
        return ""
    os.kill(identity.pid, number)
    if (victim, number) == ("supervisor", signal.SIGTERM):  # who ends it so means it; then another client comes
        until(lambda: not identity.alive())
        deployed.workspace.context.ensure_supervisor()
    return name


def one_rollout(deployed: Deployed, trial: Trial) -> tuple[Rollout, Kill | None]:
    """Run one rollout of the version that is not stable, with one signal in it."""
    chance, strategy = random.Random(trial.seed), trial.strategy
    victim, delay = chance.choice(VICTIMS), chance.uniform(0.0, SECONDS[strategy])
    early = chance.random() < 0.5  # counted from the order, when replicas start; else from when traffic moves
    victim = trial.victim or victim
    if trial.early is None:
        delay = delay if early else delay / 3
    else:  # soon, so that even the fastest strategy still runs
        early, delay = trial.early, chance.uniform(0.0, 1.0 if trial.early else 0.3)
    stable = deployed.status().stable
    handle = deployed.deploy(
        3 - stable, strategy=strategy, warm="1s", **LIMITS.get(strategy, {"deadline": "30s"}), **OPTIONS[strategy]
    )
    began, done, kills = time.monotonic(), threading.Event(), []

    def strike() -> None:
        while not early and not done.is_set() and handle.record.phase == "preparing":
            done.wait(0.02)
        done.wait(delay)
        while not done.is_set() and not kills:
            record = handle.record
            name = strike_at(deployed, victim, record, trial.signal)
            if name:
                kills.append(Kill(victim, name, time.monotonic() - began, record.place))
            else:
                done.wait(0.02)  # a new replica that has not been started yet

    striker = threading.Thread(target=strike)
    striker.start()
    try:
        record = handle.wait(75)  # a waiting client starts the supervisor again, as it does in a notebook
    finally:
        done.set()
        striker.join()
    deployed.workspace.context.ensure_supervisor()
    return record, kills[0] if kills else None


def check_end(deployed: Deployed, strategy: str, before: int, record: Rollout) -> None:
    """The plan or a rollback, and nothing left behind."""
    assert record.phase in (GOOD_END.get(strategy, "completed"), "rolled_back"), (record.phase, record.history)
    stable = record.target if record.phase == "completed" else before
    service = deployed.store.get(Service, f"{ENVIRONMENT}/digits")
    assert (service.stable, service.mirror) == (stable, ())
    assert [(one.version, one.weight) for one in service.split] == [(stable, 10_000)]

    def settled() -> bool:
        deployed.workspace.context.ensure_supervisor()  # somebody works on: without any client nobody would look
        seen = deployed.store.observed(Gateway, ENVIRONMENT)
        other = deployed.store.maybe(Revision, f"{ENVIRONMENT}/digits/{3 - stable}")
        replicas = sorted(deployed.workspace.context.processes.names("replica-"))
        return (
            bool(seen.get("alive"))
            and seen.get("weights", {}).get("digits") == {str(stable): 10_000}
            and (other is None or other.phase == "stopped")
            and replicas == [f"replica-{ENVIRONMENT}.digits.{stable}.{index}" for index in (0, 1)]
            and deployed.store.observed(Revision, f"{ENVIRONMENT}/digits/{stable}").get("ready") == 2
        )

    until(settled, 45)


def rollouts(deployed: Deployed, plan: Sequence[Trial]) -> str:
    """Run rollouts one after the other under one load; return what was measured."""
    deployed.up(1)
    ends: Counter[str] = Counter()
    victims: Counter[str] = Counter()
    with deployed.load(clients=3, per_second=60) as load:
        load.patience = PATIENCE_SECONDS
        for trial in plan:
            before = deployed.status().stable
            broken, failed = len(load.broken), len(load.failed)
            record, struck = one_rollout(deployed, trial)
            print(f"{trial}: {struck}; {record.phase} {record.reason}", flush=True)
            check_end(deployed, trial.strategy, before, record)
            load.wait_for(len(load.answers) + 30)
            assert len(load.failed) == failed, load.failed[failed:]
            if struck is None or struck.victim != "gateway":
                assert len(load.broken) == broken, "a connection broke although the gateway lived"
            ends[record.phase] += 1
            victims["none" if struck is None else struck.victim] += 1
    assert load.failed == []
    assert verify(deployed.store).intact
    return (
        f"{plan[0].strategy}, {plan[0].signal.name}: {len(plan)} rollouts, {dict(ends)}, to {dict(victims)}; "
        f"{len(load.answers)} requests, "
        f"{len(load.failed)} failed, {len(load.broken)} attempts without a connection while the gateway was dead"
    )


@pytest.mark.timeout(240)
def test_a_kill_in_a_rollout(deployed: Deployed) -> None:
    """The short form: a gateway killed during a canary, the new version's replica during a shadow."""
    print(rollouts(deployed, [Trial("canary", 1001), Trial("shadow", 1016)]))


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_kill_in_each_rollout(deployed: Deployed, strategy: str, record_property) -> None:
    """No request fails, each rollout ends as planned or goes back, nothing is left behind."""
    measured = rollouts(deployed, [Trial(strategy, FIRST_SEED + number) for number in range(ROLLOUTS)])
    print(measured)
    record_property("measured", measured)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_signal_in_each_rollout(deployed: Deployed, strategy: str, number: signal.Signals, record_property) -> None:
    """The same for a process that is suspended for good, or told to end."""
    plan = [
        Trial(strategy, FIRST_SEED + place, number, victim, early)
        for place, (victim, early) in enumerate(itertools.product(VICTIMS, (True, False)))
    ]
    measured = rollouts(deployed, plan)
    print(measured)
    record_property("measured", measured)
