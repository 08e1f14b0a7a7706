"""Four states that are never one another: healthy, no traffic, no data, monitor dead."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

HEARTBEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 30.0


class Health(StrEnum):
    """How the watching itself goes; says nothing about what is watched."""

    HEALTHY = "healthy"
    NO_TRAFFIC = "no traffic"
    NO_DATA = "no data"
    MONITOR_DEAD = "monitor dead"
    STOPPED = "stopped"


def health(
    *,
    phase: str,
    supervisor_alive: bool,
    heartbeat: datetime | None,
    last_row_at: datetime | None,
    requests: int | None,
    stale_seconds: float,
    now: datetime,
) -> Health:
    """Return the state of a monitor, as another process sees it.

    Parameters
    ----------
    heartbeat : datetime, optional
        When the monitor last said that it lives.
    last_row_at : datetime, optional
        When rows last arrived from the prediction log.
    requests : int, optional
        Requests that were answered in the last `stale_seconds`, by the gateway's count; None when it says nothing.
    """
    if phase != "running":  # also while it is being stopped: nothing is looked at any more
        return Health.STOPPED
    beating = heartbeat is not None and abs(now - heartbeat) <= timedelta(seconds=DEAD_AFTER_SECONDS)
    if not supervisor_alive or not beating:
        return Health.MONITOR_DEAD
    if last_row_at is not None and now - last_row_at <= timedelta(seconds=stale_seconds):
        return Health.HEALTHY
    # Without a word from the gateway nobody knows whether there was anything to log: that is no data, too.
    return Health.NO_TRAFFIC if requests == 0 else Health.NO_DATA
