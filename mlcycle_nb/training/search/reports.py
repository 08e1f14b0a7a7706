"""The metric of a trial as its workers report it."""

from __future__ import annotations

from pathlib import Path

from mlcycle_nb.training.events import EventReader


class ReportReader:
    """Follows one job's events for one metric; each look reads only what is new.

    A report is known by its step: what a resumed job reports once more takes the place of what it reported before.
    """

    def __init__(self, events: Path, metric: str) -> None:
        self._reader = EventReader(events)
        self._metric = metric
        self._values: dict[int, float] = {}
        self._names: dict[str, None] = {}

    def read(self) -> tuple[float, ...]:
        """Return the values in the order of their steps."""
        for event in self._reader.read():
            if event["kind"] in {"epoch", "metrics"}:
                self._names.update(dict.fromkeys(event["values"]))
                if self._metric in event["values"]:
                    self._values[event["step"]] = float(event["values"][self._metric])
        return tuple(self._values[step] for step in sorted(self._values))

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics that were reported, in the order of their first report."""
        return tuple(self._names)
