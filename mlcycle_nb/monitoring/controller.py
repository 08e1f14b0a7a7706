"""What the supervisor does for monitoring: judge windows as they fill, tell of alerts, deliver messages."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.context import Context
from mlcycle_nb.monitoring import state
from mlcycle_nb.monitoring.action_controller import AlertActionController
from mlcycle_nb.monitoring.delivery import AlertController, NotificationController, SilenceController
from mlcycle_nb.monitoring.health import HEARTBEAT_SECONDS, Health, health
from mlcycle_nb.monitoring.incidents import record_no_data
from mlcycle_nb.monitoring.label_watch import LabelWatch
from mlcycle_nb.monitoring.records import Monitor
from mlcycle_nb.monitoring.segments import Segment, served_rows
from mlcycle_nb.monitoring.state import Progress
from mlcycle_nb.monitoring.traffic import recent_requests
from mlcycle_nb.monitoring.verdicts import Verdicts
from mlcycle_nb.monitoring.windows import Stream, admit, arrivals
from mlcycle_nb.monitoring.worker_client import WorkerClient
from mlcycle_nb.serving.prediction_log import log_totals
from mlcycle_nb.store import Record
from mlcycle_nb.store.record import format_time

if TYPE_CHECKING:
    from mlcycle_nb.supervisor.controller import Controller

_LOOK_SECONDS = 0.4
_SEGMENTS_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Observation:
    """What is stored of the monitor, and which segments of which version have not been read."""

    progress: Progress
    arrived: dict[int, list[Segment]]
    requests: int | None
    missed: bool  # the state was no data when somebody last looked
    labels: tuple[str, ...] = ()  # files of labels that came by HTTP and were measured with never


@dataclass(frozen=True, slots=True)
class Judge:
    """A window of this version is full."""

    version: int


@dataclass(frozen=True, slots=True)
class Admit:
    """Rows have arrived."""


@dataclass(frozen=True, slots=True)
class Measure:
    """Labels have arrived."""


@dataclass(frozen=True, slots=True)
class Beat:
    """Nothing to do but to say so."""

    no_data: bool | None  # None: unchanged


@dataclass(frozen=True, slots=True)
class Halt:
    """Somebody asked for the end."""


Action = Judge | Admit | Measure | Beat | Halt


def next_action(monitor: Monitor, seen: Observation, now: datetime) -> Action | None:
    """Return what a monitor needs next: labels, then full windows, then new rows, then a heartbeat."""
    if monitor.phase == "stopping":
        return Halt()
    if seen.labels:  # first, because they are looked at seldom; traffic without a pause would else keep them out
        return Measure()
    for version, stream in sorted(seen.progress.streams.items()):
        if stream.pending >= monitor.window:
            return Judge(version)
    if any(seen.arrived.values()):
        return Admit()
    beat = seen.progress.heartbeat
    if beat is not None and timedelta(0) <= now - beat < timedelta(seconds=HEARTBEAT_SECONDS):
        return None
    return Beat(_no_data(monitor, seen, now))


def _no_data(monitor: Monitor, seen: Observation, now: datetime) -> bool | None:
    """Return whether requests are answered and nothing is logged, None when that is what it was."""
    last = seen.progress.last_row_at or monitor.created_at
    found = health(
        phase=monitor.phase,
        supervisor_alive=True,
        heartbeat=now,
        last_row_at=last,
        requests=seen.requests,
        stale_seconds=monitor.stale_seconds,
        now=now,
    )
    # Rows that nobody counted at a gateway may be missing for good reasons; requests without rows may not.
    missed = found is Health.NO_DATA and bool(seen.requests)
    return None if missed == seen.missed else missed


class MonitorController:
    """Watches the prediction log of each monitored service."""

    record_type: type[Record] = Monitor

    def __init__(self, context: Context, worker: WorkerClient) -> None:
        self._context = context
        self._worker = worker
        self._verdicts = Verdicts(context, worker)
        self._labels = LabelWatch(context, worker)
        self._looked: dict[str, float] = {}

    def observe(self, record: Monitor) -> Observation:
        """Read the progress, and list what has arrived, at most twice a second."""
        progress = state.load(self._context, record)
        arrived: dict[int, list[Segment]] = {}
        if time.monotonic() - self._looked.get(record.id, -1.0) >= _LOOK_SECONDS:
            self._looked[record.id] = time.monotonic()
            for version, folder in self._folders(record).items():
                arrived[version] = arrivals(folder, progress.streams.get(version, Stream()))[:_SEGMENTS_AT_ONCE]
        requests = recent_requests(self._context, record, record.stale_seconds)
        missed = bool(self._context.store.observed(Monitor, record.id).get("no_data", False))
        return Observation(progress, arrived, requests, missed, self._labels.look(record))

    def next_action(self, record: Monitor, observation: Observation, now: datetime) -> Action | None:
        return next_action(record, observation, now)

    def act(self, action: Action, record: Monitor, observation: Observation) -> None:
        """Do one step; each can be done again after a crash."""
        match action:
            case Judge(version):
                self._verdicts.judge(record, observation.progress, version)
            case Admit():
                self._admit(record, observation)
            case Measure():
                self._labels.measure(record, self._folders(record), observation.labels)
            case Beat(no_data):
                self._beat(record, no_data, observation)
            case Halt():
                self._halt(record)

    def _admit(self, record: Monitor, observation: Observation) -> None:
        streams = dict(observation.progress.streams)
        before = sum(stream.rows for stream in streams.values())
        for version, segments in observation.arrived.items():
            counted = [(segment.name, served_rows(segment)) for segment in segments]
            streams[version] = admit(streams.get(version, Stream()), counted)
        seen: dict[str, Any] = {"dropped": self._dropped(record)}
        if sum(stream.rows for stream in streams.values()) > before:
            seen["last_row_at"] = format_time(self._context.clock.now())
        state.save(self._context, record, streams, **seen)

    def _beat(self, record: Monitor, no_data: bool | None, observation: Observation) -> None:
        if no_data is not None:
            record_no_data(self._context, record, no_data, observation.requests or 0)
            state.beat(self._context, record, no_data=no_data)
        else:
            state.beat(self._context, record, dropped=self._dropped(record))

    def _halt(self, record: Monitor) -> None:
        others = [m for m in self._context.store.find(Monitor, phase="running") if m.id != record.id]
        if not others:
            self._worker.stop()
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            transaction.update(replace(record, phase="stopped"), event="monitor.stopped")

    def _folders(self, record: Monitor) -> dict[int, Path]:
        base = self._context.home / "predictions" / record.environment / record.model
        found = base.glob("v*") if base.is_dir() else ()
        return {int(folder.name[1:]): folder for folder in found if folder.name[1:].isdigit()}

    def _dropped(self, record: Monitor) -> dict[str, int]:
        root = self._context.home / "predictions"
        return {
            str(version): log_totals(root, record.environment, record.model, version)["dropped_rows"]
            for version in self._folders(record)
        }


def build(context: Context) -> list[Controller]:
    """Return the controllers of monitoring."""
    worker = WorkerClient(context)
    return [
        MonitorController(context, worker),
        AlertController(context),
        NotificationController(context),
        SilenceController(context),
        AlertActionController(context),
    ]
