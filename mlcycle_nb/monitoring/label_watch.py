"""Looks for labels that came by HTTP, and has the worker measure with them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.records import Rollout
from mlcycle_nb.monitoring import labelling
from mlcycle_nb.monitoring.records import Monitor, Performance, read_row
from mlcycle_nb.monitoring.verdicts import digest_of
from mlcycle_nb.monitoring.worker_client import WorkerClient
from mlcycle_nb.store.record import format_time, parse_time

LOOK_SECONDS = 1.0
REST = 10.0
"""Each measurement is of all labels; it is repeated after this many times the time that it took, at the earliest."""
FAILED_SECONDS = 30.0
AGAIN_SECONDS = 3.0
"""After this, labels of predictions that were not in the log are looked for once more: it is written twice a second."""


class LabelWatch:
    """The labels of the monitored services.

    Parameters
    ----------
    context : Context
    worker : WorkerClient
        Measures: reading a long log is no work for the supervisor.
    """

    def __init__(self, context: Context, worker: WorkerClient) -> None:
        self._context = context
        self._worker = worker
        self._due: dict[str, float] = {}
        self._noted: dict[str, str] = {}
        self._again: dict[str, float] = {}

    def look(self, monitor: Monitor) -> tuple[str, ...]:
        """Return the files of labels to measure with now; none when it is too early to look again."""
        if monitor.phase != "running" or time.monotonic() < self._due.get(monitor.id, 0.0):
            return ()
        self._due[monitor.id] = time.monotonic() + LOOK_SECONDS
        new = labelling.new_files(self._context, monitor.environment, monitor.model)
        owed = "" if new else labelling.owed(self._context, monitor.environment, monitor.model)
        if owed and time.monotonic() >= self._again.setdefault(monitor.id, time.monotonic() + AGAIN_SECONDS):
            return (owed,)
        return tuple(new)

    def measure(self, monitor: Monitor, versions: Iterable[int], files: Sequence[str]) -> None:
        """Measure every version with all labels that have come; again after a crash, with the same result.

        Parameters
        ----------
        files : sequence of str
            What `look` found.
        """
        self._again.pop(monitor.id, None)
        new = labelling.new_files(self._context, monitor.environment, monitor.model)
        began = time.monotonic()
        # A version whose package is gone must not keep the monitor from its windows.
        self._due[monitor.id] = began + FAILED_SECONDS
        digests = {str(version): digest_of(self._context, monitor, version) for version in versions}
        reply = self._worker.ask(
            {
                "op": "measure",
                "environment": monitor.environment,
                "model": monitor.model,
                "digests": {version: digest for version, digest in digests.items() if digest is not None},
                "now": format_time(self._context.clock.now()),
                "fold": self._foldable(monitor),
            }
        )
        if new and self._noted.get(monitor.id) != new[-1]:
            labelling.note_arrivals(self._context, monitor.environment, monitor.model, new)
            self._noted[monitor.id] = new[-1]
        measured = [read_performance(tree) for tree in reply["performance"]]
        again = bool(new) and any(one.unknown for one in measured)
        labelling.keep(self._context, monitor.environment, monitor.model, measured, max([*files, *new]), again=again)
        self._due[monitor.id] = time.monotonic() + max(LOOK_SECONDS, REST * (time.monotonic() - began))

    def _foldable(self, monitor: Monitor) -> str:
        """Return the file of labels up to which everybody has counted them; a rollout under way counts from another."""
        rollouts = self._context.store.find(Rollout, name=monitor.id, active=True)
        if any(not rollout.ended for rollout in rollouts):
            return ""
        return labelling.measured_until(self._context, monitor.environment, monitor.model)


def read_performance(tree: dict[str, Any]) -> Performance:
    """Return what the worker measured."""
    moment = tree["time"]
    time_of: datetime = parse_time(moment) if isinstance(moment, str) else moment
    return read_row(Performance, {**tree, "time": time_of})
