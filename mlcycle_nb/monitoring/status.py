"""One look at a monitor: how the watching goes, and what it found."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mlcycle_nb.context import Context
from mlcycle_nb.monitoring import state
from mlcycle_nb.monitoring.health import Health, health
from mlcycle_nb.monitoring.records import OPEN_PHASES, Alert, Monitor, Notification
from mlcycle_nb.monitoring.traffic import recent_requests
from mlcycle_nb.supervisor.start import find_supervisor


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionProgress:
    """How far one version is: windows judged, and rows that wait for the next."""

    version: int
    windows: int
    rows: int
    waiting: int
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorStatus:
    """How the watching goes, and the alerts that are open."""

    monitor: Monitor
    health: Health
    versions: tuple[VersionProgress, ...]
    alerts: tuple[Alert, ...]
    undelivered: tuple[Notification, ...]
    heartbeat: datetime | None
    error: str

    @property
    def windows(self) -> int:
        """Windows judged, over all versions."""
        return sum(one.windows for one in self.versions)

    def waiting(self) -> str:
        """Return ``version 1: waiting 37/100`` for each version."""
        size = self.monitor.window
        listed = ", ".join(f"version {one.version}: waiting {one.waiting}/{size}" for one in self.versions)
        return listed or f"waiting 0/{size}"

    def __repr__(self) -> str:
        alerts = ", ".join(f"{one.kind} {one.phase}" for one in self.alerts) or "none"
        return f"monitor {self.monitor.id}: {self.health}, {self.windows} windows, {self.waiting()}, alerts: {alerts}"


def read_status(context: Context, monitor: Monitor) -> MonitorStatus:
    """Read the status of a monitor; another process than the monitor itself looks at its heartbeat."""
    progress = state.load(context, monitor)
    now = context.clock.now()
    found = health(
        phase=monitor.phase,
        supervisor_alive=find_supervisor(context.home) is not None,
        heartbeat=progress.heartbeat,
        last_row_at=progress.last_row_at,
        requests=recent_requests(context, monitor, monitor.stale_seconds),
        stale_seconds=monitor.stale_seconds,
        now=now,
    )
    versions = tuple(
        VersionProgress(
            version=version,
            windows=stream.windows,
            rows=stream.rows,
            waiting=stream.pending,
            dropped=progress.dropped.get(version, 0),
        )
        for version, stream in sorted(progress.streams.items())
    )
    store = context.store
    return MonitorStatus(
        monitor=monitor,
        health=found,
        versions=versions,
        alerts=tuple(store.find(Alert, name=monitor.id, phase=OPEN_PHASES)),
        undelivered=tuple(store.find(Notification, name=monitor.id, phase=("queued", "dead"))),
        heartbeat=progress.heartbeat,
        error=progress.error,
    )
