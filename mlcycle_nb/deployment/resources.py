"""CPU and memory of each version's replicas, from second to second: a bounded series in the store."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import psutil

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.records import Revision, service_id
from mlcycle_nb.supervisor.identity import ProcessIdentity

KIND = "resources"
SAMPLE_SECONDS = 5.0
POINTS_KEPT = 7200
PRUNE_EVERY = 100


def owner(service: str) -> str:
    """Return the owner of a service's series in the store, such as ``resources:production/digits``."""
    return f"resources:{service}"


@dataclass(slots=True)
class _Last:
    """What was seen of one revision's processes at the last look."""

    at: float
    cpu_seconds: dict[ProcessIdentity, float]


@dataclass(slots=True)
class Resources:
    """Samples the replicas of all revisions.

    CPU is the time that a version's replicas took between two looks, by the time between them: 1.0 is one core. A
    replica counts from its second look on, so a series has no spikes where processes come and go.
    """

    context: Context
    _last: dict[str, _Last] = field(default_factory=dict)
    _written: Counter[str] = field(default_factory=Counter)

    def sample(self, revision: Revision, replicas: Iterable[ProcessIdentity]) -> None:
        """Look at the living replicas of a revision, at most every `SAMPLE_SECONDS`, and store a point."""
        now = time.monotonic()
        last = self._last.get(revision.id)
        if last is not None and now - last.at < SAMPLE_SECONDS:
            return
        seen = {identity: usage for identity in replicas if (usage := _usage(identity)) is not None}
        self._last[revision.id] = _Last(now, {identity: cpu for identity, (cpu, _) in seen.items()})
        if last is None or not seen:
            return
        spent = [cpu - last.cpu_seconds[one] for one, (cpu, _) in seen.items() if one in last.cpu_seconds]
        point = {
            "time": self.context.clock.now(),
            "kind": KIND,
            "version": revision.model_version,
            "seconds": round(now - last.at, 3),
            "replicas": len(seen),
            "cpu_cores": round(max(sum(spent), 0.0) / (now - last.at), 5) if spent else None,
            "memory_bytes": sum(memory for _, memory in seen.values()),
        }
        series = owner(service_id(revision.environment, revision.model))
        self.context.store.add_measurements(series, [point])
        self._written[series] += 1
        if self._written[series] % PRUNE_EVERY == 0:
            self.context.store.prune_measurements(series, keep=POINTS_KEPT)


def _usage(identity: ProcessIdentity) -> tuple[float, int] | None:
    """Return CPU seconds and resident bytes of a process; None when it has gone or is another by now."""
    try:
        process = psutil.Process(identity.pid)
        with process.oneshot():
            times, memory = process.cpu_times(), process.memory_info().rss
    except psutil.Error:
        return None
    return (times.user + times.system, int(memory)) if identity.alive() else None
