"""Four states that are never merged, and waits that grow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mlcycle_nb.monitoring.health import Health, health
from mlcycle_nb.monitoring.outbox import given_up, is_due, wait_seconds

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def seconds_ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("alive", "heartbeat", "row", "requests", "expected"),
    [
        (True, 1, 5, 40, Health.HEALTHY),
        (True, 1, 5, None, Health.HEALTHY),
        (True, 1, 300, 0, Health.NO_TRAFFIC),
        (True, 1, None, 0, Health.NO_TRAFFIC),
        (True, 1, 300, 40, Health.NO_DATA),
        (True, 1, 300, None, Health.NO_DATA),
        (True, 1, None, None, Health.NO_DATA),
        (True, 31, 5, 40, Health.MONITOR_DEAD),
        (True, None, 5, 40, Health.MONITOR_DEAD),
        (False, 1, 5, 40, Health.MONITOR_DEAD),
    ],
)
def test_states(alive: bool, heartbeat: float | None, row: float | None, requests: int | None, expected: str) -> None:
    found = health(
        phase="running",
        supervisor_alive=alive,
        heartbeat=None if heartbeat is None else seconds_ago(heartbeat),
        last_row_at=None if row is None else seconds_ago(row),
        requests=requests,
        stale_seconds=60,
        now=NOW,
    )

    assert found is expected


class TestWaits:
    def test_they_double_up_to_five_minutes(self) -> None:
        waits = [wait_seconds("key", attempt) for attempt in range(1, 15)]

        assert all(0.8 <= wait / min(2.0 * 2**i, 300.0) <= 1.2 for i, wait in enumerate(waits))

    def test_messages_that_failed_together_do_not_come_back_together(self) -> None:
        assert len({round(wait_seconds(f"key-{i}", 5), 3) for i in range(50)}) > 40

    def test_the_receiver_may_ask_for_more_up_to_an_hour(self) -> None:
        assert wait_seconds("key", 1, 120.0) == 120.0
        assert wait_seconds("key", 1, 1e9) == 3600.0
        assert wait_seconds("key", 1, -5.0) < 3.0

    def test_due(self) -> None:
        assert is_due(None, NOW)
        assert not is_due(NOW + timedelta(seconds=1), NOW)
        assert is_due(NOW, NOW)
        assert is_due(NOW + timedelta(days=7), NOW)  # the clock was set back

    def test_a_day_is_enough(self) -> None:
        assert not given_up(seconds_ago(86_000), NOW)
        assert given_up(seconds_ago(87_000), NOW)
