"""A clock that moves only when the test moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class FakeClock:
    """Time stands still until `advance` is called.

    Parameters
    ----------
    start : datetime, optional
        First time of day, timezone-aware; 2026-01-01 00:00 UTC by default.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, by: timedelta) -> None:
        """Let `by` pass, on both clocks."""
        self._now += by
        self._monotonic += by.total_seconds()

    def set_back(self, by: timedelta) -> None:
        """Set the time of day back, as an administrator would; monotonic time goes on."""
        self._now -= by
