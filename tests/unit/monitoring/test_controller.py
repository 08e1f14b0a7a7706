"""What a monitor does next, and that answered requests without a logged row are an incident."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.monitoring import state
from mlcycle_nb.monitoring.controller import Admit, Beat, Halt, Judge, MonitorController, Observation, next_action
from mlcycle_nb.monitoring.records import Alert, Monitor
from mlcycle_nb.monitoring.segments import Segment
from mlcycle_nb.monitoring.state import Progress
from mlcycle_nb.monitoring.traffic import recent_requests, traffic_metrics
from mlcycle_nb.monitoring.windows import Part, Stream
from mlcycle_nb.monitoring.worker_client import WorkerClient
from mlcycle_nb.testing import FakeClock


def stream(rows: int) -> Stream:
    return Stream(waiting=(Part("a", 0, rows),)) if rows else Stream()


class TestNextAction:
    def seen(self, context: Context, **fields) -> Observation:
        progress = Progress(heartbeat=context.clock.now(), streams={1: stream(0)})
        return Observation(**{"progress": progress, "arrived": {}, "requests": None, "missed": False, **fields})

    def test_nothing(self, context: Context, declare) -> None:
        assert next_action(declare(), self.seen(context), context.clock.now()) is None

    def test_full_windows_come_before_new_rows(self, context: Context, declare) -> None:
        progress = Progress(heartbeat=context.clock.now(), streams={1: stream(99), 2: stream(100)})
        arrived = {1: [Segment("x", Path("x"), 0, None)]}
        monitor = declare()

        assert next_action(
            monitor, self.seen(context, progress=progress, arrived=arrived), context.clock.now()
        ) == Judge(2)
        assert next_action(monitor, self.seen(context, arrived=arrived), context.clock.now()) == Admit()

    def test_it_says_that_it_lives(self, context: Context, declare, fake_clock: FakeClock) -> None:
        monitor, seen = declare(), self.seen(context)
        fake_clock.advance(timedelta(seconds=5))
        assert next_action(monitor, seen, context.clock.now()) == Beat(None)

        fake_clock.set_back(timedelta(days=7))
        assert next_action(monitor, seen, context.clock.now()) == Beat(None)

    def test_it_ends_when_asked(self, context: Context, declare) -> None:
        progress = Progress(heartbeat=context.clock.now(), streams={2: stream(1000)})

        assert (
            next_action(declare(phase="stopping"), self.seen(context, progress=progress), context.clock.now()) == Halt()
        )


@pytest.fixture
def counted(context: Context) -> Callable[..., None]:
    """Store what a gateway counted, as deployment does."""

    def add(**fields: object) -> None:
        row = {"time": context.clock.now(), "kind": "traffic", "version": 1, "seconds": 2.0, "requests": 10, **fields}
        context.store.add_measurements("service:production/credit", [row])

    return add


class TestNoData:
    def turns(self, context: Context, monitor: Monitor, clock: FakeClock, seconds: int) -> None:
        controller = MonitorController(context, WorkerClient(context))
        for _ in range(seconds // 5):
            clock.advance(timedelta(seconds=5))
            seen = controller.observe(monitor)
            action = controller.next_action(monitor, seen, context.clock.now())
            if action is not None:
                controller.act(action, monitor, seen)

    def test_answered_requests_and_no_row_fire_and_no_requests_keep_it(
        self, context: Context, declare, fake_clock: FakeClock, counted
    ) -> None:
        monitor = declare()
        state.save(context, monitor, {})
        fake_clock.advance(timedelta(seconds=58))
        counted(requests=40, errors=3)
        self.turns(context, monitor, fake_clock, 20)
        [alert] = context.store.find(Alert)

        assert (alert.kind, alert.phase) == ("no_data", "firing")
        assert "37 requests" in alert.summary

    def test_neither_silence_nor_failing_requests_nor_a_gateway_without_a_word_fire(
        self, context: Context, declare, fake_clock: FakeClock, counted
    ) -> None:
        monitor = declare()
        state.save(context, monitor, {})
        self.turns(context, monitor, fake_clock, 120)
        counted(requests=10, errors=6, client_errors=4)
        self.turns(context, monitor, fake_clock, 30)

        assert context.store.find(Alert) == []


def test_series_are_rates_and_shares(context: Context, declare, counted) -> None:
    counted(requests=10, errors=1, p50_ms=1.5, p95_ms=4.0, p99_ms=None)
    found = {one.metric: (one.value, one.unit) for one in traffic_metrics(context, declare(), 100)}

    assert found == {
        "request_rate": (5.0, "1/s"),
        "error_rate": (0.1, "share"),
        "latency_p50": (1.5, "ms"),
        "latency_p95": (4.0, "ms"),
    }


def test_a_gateway_that_never_counted_is_not_one_that_counted_nothing(
    context: Context, declare, fake_clock: FakeClock, counted
) -> None:
    monitor = declare()
    assert recent_requests(context, monitor, 60) is None
    counted()
    fake_clock.advance(timedelta(seconds=61))
    assert recent_requests(context, monitor, 60) == 0
