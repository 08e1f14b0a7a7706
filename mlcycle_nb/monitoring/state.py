"""What a monitor has seen so far, as it lies in the store: streams, heartbeat, counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mlcycle_nb.context import Context
from mlcycle_nb.monitoring.records import Monitor
from mlcycle_nb.monitoring.windows import Stream
from mlcycle_nb.store.record import format_time, jsonable, parse_time, structured


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a monitor has come.

    Attributes
    ----------
    streams : dict
        Version to its stream.
    dropped : dict
        Version to the rows that its replicas could not log.
    """

    streams: dict[int, Stream] = field(default_factory=dict)
    heartbeat: datetime | None = None
    last_row_at: datetime | None = None
    dropped: dict[int, int] = field(default_factory=dict)
    error: str = ""

    @property
    def windows(self) -> int:
        """Windows judged so far, over all versions."""
        return sum(stream.windows for stream in self.streams.values())


def key(monitor: Monitor) -> str:
    """Return the name under which the streams of a monitor's present generation lie."""
    # Streams of another generation keep another name, so a supervisor that still works on it cannot overwrite ours.
    return f"streams_{monitor.generation}"


def load(context: Context, monitor: Monitor) -> Progress:
    """Read the progress of a monitor."""
    seen = context.store.observed(Monitor, monitor.id)
    streams = {int(version): structured(tree, Stream) for version, tree in seen.get(key(monitor), {}).items()}
    return Progress(
        streams=streams,
        heartbeat=_time(seen.get("heartbeat")),
        last_row_at=_time(seen.get("last_row_at")),
        dropped={int(version): int(rows) for version, rows in seen.get("dropped", {}).items()},
        error=str(seen.get("error", "")),
    )


def save(context: Context, monitor: Monitor, streams: Mapping[int, Stream], **seen: Any) -> None:
    """Store the streams of a monitor, and other things seen; it is a heartbeat too."""
    trees = {str(version): jsonable(stream) for version, stream in streams.items()}
    beat = format_time(context.clock.now())
    context.store.observe(Monitor, monitor.id, **{key(monitor): trees}, heartbeat=beat, **seen)


def beat(context: Context, monitor: Monitor, **seen: Any) -> None:
    """Say that the monitor lives."""
    context.store.observe(Monitor, monitor.id, heartbeat=format_time(context.clock.now()), **seen)


def _time(text: Any) -> datetime | None:
    return parse_time(text) if isinstance(text, str) and text else None
