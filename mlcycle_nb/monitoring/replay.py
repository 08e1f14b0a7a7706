"""Recorded traffic through the code that judges live traffic, in virtual time; nobody is told and nothing is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import Refused
from mlcycle_nb.monitoring.alerts import FAMILY_KINDS, Evidence, advance
from mlcycle_nb.monitoring.label_watch import read_performance
from mlcycle_nb.monitoring.labelling import evidence_of
from mlcycle_nb.monitoring.recording import Recording
from mlcycle_nb.monitoring.records import Alert, Monitor, Performance, WindowVerdict, read_row
from mlcycle_nb.monitoring.verdicts import WINDOW, judge_request, judged, with_evidence
from mlcycle_nb.monitoring.windows import Part, Stream, admit, take
from mlcycle_nb.store.record import format_time

if TYPE_CHECKING:
    import pandas as pd

    from mlcycle_nb.monitoring.replay_panel import ReplayPanel

MOST_WINDOWS = 5000
LOOKS_AT_LABELS = 50
"""Times at which labels are measured with; more of them would show the same."""
_AFTER = timedelta(microseconds=1)  # so that rows of the very moment are among those served before it
Ask = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Replay:
    """What monitoring would have said about a recording.

    Attributes
    ----------
    monitor : Monitor
        How it was watched; it is stored nowhere.
    source : str
        The time or the file that was replayed.
    rows, waiting : int
        Served rows in the recording, and those of them that filled no window.
    windows : tuple of WindowVerdict
        In the order in which they became full; `time` is when that was.
    alerts : tuple of Alert
        In the order in which they began, with the times at which they would have fired and ended.
    performance : tuple of Performance
        At each time at which labels came, one for each version.
    """

    monitor: Monitor
    source: str
    rows: int
    waiting: int
    windows: tuple[WindowVerdict, ...]
    alerts: tuple[Alert, ...]
    performance: tuple[Performance, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each column of each window."""
        import pandas as pd

        rows = [
            {
                "time": window.time,
                "version": window.version,
                "window": window.index,
                "outcome": window.outcome,
                "rows": window.rows,
                "column": finding.name,
                "family": finding.family,
                "detector": finding.detector,
                "state": finding.state,
                "effect": finding.effect,
                "bound": finding.bound,
                "p_value": finding.p_value,
                "adjusted": finding.adjusted,
                "why": finding.why,
            }
            for window in self.windows
            for finding in window.findings
        ]
        return pd.DataFrame(rows, columns=FRAME_COLUMNS)

    def panel(self) -> ReplayPanel:
        """Return the drift panel of the replay."""
        from mlcycle_nb.monitoring.replay_panel import ReplayPanel

        return ReplayPanel(self)

    def __repr__(self) -> str:
        return repr(self.panel())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"text/plain": repr(self), "text/html": self.panel().to_html()}


FRAME_COLUMNS = [
    *("time", "version", "window", "outcome", "rows", "column", "family", "detector"),
    *("state", "effect", "bound", "p_value", "adjusted", "why"),
]


@dataclass(slots=True)
class _Book:
    """The alerts of a replay: as in the store, at most one open of each kind."""

    monitor: Monitor
    alerts: dict[str, Alert] = field(default_factory=dict)

    def take(self, evidence: Evidence, now: datetime) -> None:
        found = next((one for one in self.alerts.values() if one.kind == evidence.kind and one.open), None)
        after = advance(found, evidence, self.monitor, now, f"replayed-{len(self.alerts) + 1}")
        if after is not None:
            self.alerts[after.id] = after


def replay(
    monitor: Monitor, recording: Recording, digests: Mapping[int, str], label_times: list[datetime], ask: Ask
) -> Replay:
    """Judge every window of a recording.

    Parameters
    ----------
    monitor : Monitor
        How to watch.
    digests : mapping
        Version to its package.
    label_times : list of datetime
        When labels of the recorded predictions came.
    ask : callable
        The worker.

    Raises
    ------
    Refused
        When it would be more than `MOST_WINDOWS` windows.
    """
    wanted = sum(sum(map(len, parts.values())) // monitor.window for parts in recording.segments.values())
    if wanted > MOST_WINDOWS:
        raise Refused(
            f"{wanted} windows are more than a replay judges, which is {MOST_WINDOWS}",
            remedy="replay a shorter time, or use a larger window",
        )
    full, waiting = _windows(monitor, recording)
    streams = {version: Stream() for version in recording.segments}
    looks = [(moment, None) for moment in _spread(label_times)]
    windows, performance, book = [], [], _Book(monitor)
    # Of one moment, the window comes first: it was full before the label could be read.
    for moment, window in sorted([*full, *looks], key=lambda event: (event[0], event[1] is None)):
        if window is None:
            measured = _measure(monitor, recording, digests, moment, ask)
            performance += measured
            for evidence in evidence_of(monitor, measured):
                book.take(evidence, moment)
            continue
        version, parts = window
        asked = judge_request(monitor, version, digests[version], streams[version], parts)
        reply = ask({**asked, "recording": str(recording.file or "")})
        row, streams[version] = judged(monitor, version, streams[version], (), reply)
        verdict = read_row(WindowVerdict, {"time": moment, "kind": WINDOW, **row})
        windows.append(verdict)
        for kind in FAMILY_KINDS.values():
            streams, evidence = with_evidence(streams, verdict, kind)
            book.take(evidence, moment)
    return Replay(
        monitor=monitor,
        source=recording.source,
        rows=recording.rows,
        waiting=waiting,
        windows=tuple(windows),
        alerts=tuple(book.alerts.values()),
        performance=tuple(performance),
    )


_Window = tuple[int, tuple[Part, ...]]


def _windows(monitor: Monitor, recording: Recording) -> tuple[list[tuple[datetime, _Window | None]], int]:
    """Return each full window with the time at which it was full, and how many rows are left over."""
    full: list[tuple[datetime, _Window | None]] = []
    waiting = 0
    for version, segments in recording.segments.items():
        stream = admit(Stream(), [(name, len(times)) for name, times in segments.items()])
        left = stream.waiting
        reached: datetime | None = None
        while True:
            parts, left = take(Stream(waiting=left), monitor.window)
            if not parts:
                break
            moment = max(recording.moment(version, part.segment, part.stop - 1) for part in parts)
            # Windows of a version are judged in their order, also where a replica wrote late.
            reached = moment if reached is None else max(moment, reached)
            full.append((reached, (version, parts)))
        waiting += sum(part.rows for part in left)
    return full, waiting


def _spread(times: list[datetime]) -> list[datetime]:
    distinct = sorted(set(times))
    if len(distinct) <= LOOKS_AT_LABELS:
        return distinct
    last = len(distinct) - 1
    return [distinct[round(step * last / (LOOKS_AT_LABELS - 1))] for step in range(LOOKS_AT_LABELS)]


def _measure(
    monitor: Monitor, recording: Recording, digests: Mapping[int, str], now: datetime, ask: Ask
) -> list[Performance]:
    request = {
        "op": "measure",
        "environment": monitor.environment,
        "model": monitor.model,
        "digests": {str(version): digest for version, digest in digests.items()},
        "now": format_time(now + _AFTER),
        "since": format_time(recording.began),
        "recording": str(recording.file or ""),
    }
    return [read_performance(tree) for tree in ask(request)["performance"]]
