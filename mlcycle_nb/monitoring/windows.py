"""Windows: what has arrived of one version and not been judged yet, counted in served rows in stored order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlcycle_nb.monitoring.segments import Mark, Segment, is_read, listing, mark_read, parse

STREAK_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Part:
    """Served rows `start` to `stop` of one segment."""

    segment: str
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Streak:
    """Windows in a row that were bad, or clear, for one kind of alert; one of both numbers is 0."""

    bad: int = 0
    clear: int = 0

    def after(self, state: str) -> Streak:
        """Return the streak after a window that was ``bad``, ``clear`` or ``unknown``."""
        if state == "bad":
            return Streak(min(self.bad + 1, STREAK_LIMIT), 0)
        if state == "clear":
            return Streak(0, min(self.clear + 1, STREAK_LIMIT))
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """How far the monitoring of one version has come; everything that outlives the supervisor.

    Attributes
    ----------
    marks : tuple of Mark
        What has been read of each replica.
    waiting : tuple of Part
        Rows that arrived and wait for their window to be full, in the order of arrival.
    windows : int
        Windows judged so far.
    rows : int
        Served rows that arrived so far.
    control : dict
        State of the false-discovery control of each family.
    streaks : dict
        Kind of alert to its streak.
    """

    marks: tuple[Mark, ...] = ()
    waiting: tuple[Part, ...] = ()
    windows: int = 0
    rows: int = 0
    control: dict[str, dict[str, Any]] = field(default_factory=dict)
    streaks: dict[str, Streak] = field(default_factory=dict)

    @property
    def pending(self) -> int:
        """Rows that wait for their window to be full."""
        return sum(part.rows for part in self.waiting)


def arrivals(folder: Path, stream: Stream) -> list[Segment]:
    """Return the segments of a version that have not been read, each writer's in its own order."""
    unread = [segment for segment in listing(folder) if not is_read(segment.name, stream.marks)]
    return sorted(unread, key=_stored_order)


def _stored_order(segment: Segment) -> tuple[int, int, int]:
    own = parse(segment.name)
    assert own is not None  # names of another form count as read
    return own.time_ns, own.writer, own.number


def admit(stream: Stream, arrived: Sequence[tuple[str, int]]) -> Stream:
    """Return the stream with segments, given as (name, served rows), added at its end."""
    marks, waiting, rows = stream.marks, list(stream.waiting), stream.rows
    for name, served in arrived:
        if is_read(name, marks):
            continue
        marks = mark_read(name, marks)
        if served:
            waiting.append(Part(name, 0, served))
            rows += served
    return replace(stream, marks=marks, waiting=tuple(waiting), rows=rows)


def take(stream: Stream, rows: int) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """Return the parts of the next window, and what is left; nothing to take when fewer than `rows` wait."""
    if stream.pending < rows:
        return (), stream.waiting
    window: list[Part] = []
    missing = rows
    left = list(stream.waiting)
    while missing:
        part = left.pop(0)
        if part.rows <= missing:
            window.append(part)
            missing -= part.rows
        else:
            cut = part.start + missing
            window.append(Part(part.segment, part.start, cut))
            left.insert(0, Part(part.segment, cut, part.stop))
            missing = 0
    return tuple(window), tuple(left)


def everything_read(folder: Path, *, before_ns: int | None = None) -> Stream:
    """Return a stream that begins after what is stored now, or after what was written before a time."""
    stream = Stream()
    for segment in sorted(listing(folder), key=lambda s: s.name):
        own = parse(segment.name)
        if own is not None and (before_ns is None or own.time_ns < before_ns):
            stream = replace(stream, marks=mark_read(segment.name, stream.marks))
    return stream
