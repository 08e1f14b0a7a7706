"""CPU and memory of real processes, looked at twice, kept within bounds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.deployment import resources
from mlcycle_nb.deployment.records import Revision
from mlcycle_nb.deployment.resources import Resources
from mlcycle_nb.monitoring.records import Monitor
from mlcycle_nb.monitoring.traffic import resource_metrics
from mlcycle_nb.supervisor.identity import ProcessIdentity

BUSY = "b = bytearray(40_000_000); print('up', flush=True)\nwhile True: sum(range(1000))"


@pytest.fixture
def busy() -> Iterator[tuple[ProcessIdentity, subprocess.Popen[bytes]]]:
    child = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    identity = ProcessIdentity.of(child.pid)
    assert identity is not None
    yield identity, child
    child.kill()
    child.wait()
    child.stdout.close()


@pytest.fixture
def revision(context: Context) -> Revision:
    return Revision(
        id="production/digits/7", phase="ready", created_at=context.clock.now(), environment="production",
        model="digits", model_version=7, digest="d", replicas=2,
    )  # fmt: skip


def test_a_busy_replica_shows_and_a_dead_one_does_not(
    context: Context, revision: Revision, busy: tuple[ProcessIdentity, subprocess.Popen[bytes]], fake_clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    identity, child = busy
    clock = [100.0]
    monkeypatch.setattr(resources.time, "monotonic", lambda: clock[0])
    usage = {"cpu": 3.0}
    real = resources._usage
    monkeypatch.setattr(
        resources, "_usage", lambda one: None if (found := real(one)) is None else (usage["cpu"], found[1])
    )
    sampler = Resources(context)
    sampler.sample(revision, [identity])
    clock[0], usage["cpu"] = 104.9, 4.0
    sampler.sample(revision, [identity])  # too early
    clock[0], usage["cpu"] = 110.0, 8.0
    fake_clock.advance(timedelta(seconds=10))
    sampler.sample(revision, [identity])
    child.kill()
    child.wait()
    clock[0] = 120.0
    sampler.sample(revision, [identity])
    [point] = context.store.measurements("resources:production/digits")

    assert (point["version"], point["cpu_cores"], point["replicas"], point["seconds"]) == (7, 0.5, 1, 10.0)
    assert 40_000_000 < point["memory_bytes"] < 400_000_000


def test_the_numbers_are_the_process_s_own(busy: tuple[ProcessIdentity, subprocess.Popen[bytes]]) -> None:
    identity, _ = busy
    first = resources._usage(identity)
    assert first is not None
    while (later := resources._usage(identity)) is not None and later[0] <= first[0]:
        pass
    assert later is not None
    assert resources._usage(ProcessIdentity(identity.pid, "another")) is None


def test_a_replica_counts_from_its_second_look(
    context: Context, revision: Revision, busy: tuple[ProcessIdentity, subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    identity, _ = busy
    clock = [100.0]
    monkeypatch.setattr(resources.time, "monotonic", lambda: clock[0])
    sampler = Resources(context)
    sampler.sample(revision, [])
    clock[0] = 110.0
    sampler.sample(revision, [identity])
    [point] = context.store.measurements("resources:production/digits")

    assert point["cpu_cores"] is None


def test_the_series_is_bounded_and_read_as_metrics(
    context: Context, revision: Revision, busy: tuple[ProcessIdentity, subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    identity, _ = busy
    clock = [0.0]
    monkeypatch.setattr(resources.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(resources, "POINTS_KEPT", 10)
    monkeypatch.setattr(resources, "PRUNE_EVERY", 20)
    sampler = Resources(context)
    for number in range(41):
        clock[0] = 10.0 * number
        sampler.sample(revision, [identity])
    monitor = Monitor(
        id="production/digits", phase="running", created_at=context.clock.now(), environment="production",
        model="digits", window=100, detectors=("ks",), channels=(),
    )  # fmt: skip
    metrics = resource_metrics(context, monitor, 500)

    assert len(context.store.measurements("resources:production/digits")) == 10
    assert {(one.metric, one.unit, one.version) for one in metrics} == {("cpu", "cores", 7), ("memory", "MiB", 7)}
    assert 40 < max(one.value for one in metrics if one.metric == "memory") < 400
