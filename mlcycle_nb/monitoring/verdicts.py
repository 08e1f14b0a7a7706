"""From a full window to its stored verdict and to the alerts that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.records import Revision, revision_id
from mlcycle_nb.errors import NotFound
from mlcycle_nb.monitoring import state
from mlcycle_nb.monitoring.alerts import FAMILY_KINDS, Evidence, state_of, summarise
from mlcycle_nb.monitoring.incidents import record_evidence
from mlcycle_nb.monitoring.records import Monitor, WindowVerdict, read_row
from mlcycle_nb.monitoring.state import Progress
from mlcycle_nb.monitoring.windows import Part, Streak, Stream, take
from mlcycle_nb.monitoring.worker_client import WorkerClient
from mlcycle_nb.supervisor.crash import crash_point

WINDOW = "window"
KEPT = 2000


class Verdicts:
    """Judges one full window at a time.

    The verdict is stored first, then the alerts, then that the window is done. A crash in between judges the same
    rows again; readers take the last verdict of a window, and alerts do not change twice by the same evidence.
    """

    def __init__(self, context: Context, worker: WorkerClient) -> None:
        self._context = context
        self._worker = worker

    def judge(self, monitor: Monitor, progress: Progress, version: int) -> None:
        """Judge the oldest full window of a version."""
        stream = progress.streams[version]
        parts, left = take(stream, monitor.window)
        if not parts:
            return
        digest = needed_digest(digest_of(self._context, monitor, version), monitor, version)
        reply = self._worker.ask(judge_request(monitor, version, digest, stream, parts))
        row, after = judged(monitor, version, stream, left, reply)
        verdict = self._store(monitor, row)
        crash_point("monitor.after_verdict")
        streams = {**progress.streams, version: after}
        for kind in FAMILY_KINDS.values():
            streams, evidence = with_evidence(streams, verdict, kind)
            record_evidence(self._context, monitor, evidence)
        crash_point("monitor.after_alerts")
        state.save(self._context, monitor, streams)

    def _store(self, monitor: Monitor, row: dict[str, Any]) -> WindowVerdict:
        stamped = {"time": self._context.clock.now(), "kind": WINDOW, **row}
        self._context.store.add_measurements(monitor.owner, [stamped])
        if row["index"] % 50 == 0:
            self._context.store.prune_measurements(monitor.owner, keep=KEPT)
        return read_row(WindowVerdict, stamped)


# What follows is also what a replay does: whatever decides a verdict or an alert is here or in `alerts`.


def judge_request(monitor: Monitor, version: int, digest: str, stream: Stream, parts: Sequence[Part]) -> dict[str, Any]:
    """Return what the worker is asked about a window."""
    return {
        "op": "judge",
        "environment": monitor.environment,
        "model": monitor.model,
        "version": version,
        "digest": digest,
        "detectors": list(monitor.detectors),
        "categorical": list(monitor.categorical),
        "bounds": monitor.effect_bounds,
        "control": stream.control or new_control(monitor.q),
        "parts": [[part.segment, part.start, part.stop] for part in parts],
    }


def judged(
    monitor: Monitor, version: int, stream: Stream, left: tuple[Part, ...], reply: dict[str, Any]
) -> tuple[dict[str, Any], Stream]:
    """Return the row of a verdict, and the stream after its window."""
    said = {name: value for name, value in reply.items() if name != "control"}
    index = stream.windows + 1
    row = {"version": version, "index": index, "generation": monitor.generation, **said}
    return row, replace(stream, waiting=left, windows=index, control=reply["control"])


def with_evidence(
    streams: Mapping[int, Stream], verdict: WindowVerdict, kind: str
) -> tuple[dict[int, Stream], Evidence]:
    """Return the streams with a verdict counted in, and what it says about one kind of alert."""
    family = next(family for family, of_kind in FAMILY_KINDS.items() if of_kind == kind)
    seen = state_of(verdict, family)
    own = streams[verdict.version]
    streak = own.streaks.get(kind, Streak()).after(seen)
    after = {**streams, verdict.version: replace(own, streaks={**own.streaks, kind: streak})}
    subjects, summary = summarise(verdict, family)
    evidence = Evidence(
        kind=kind,
        version=verdict.version,
        state=seen,
        subjects=subjects,
        summary=summary,
        streaks={version: stream.streaks.get(kind, Streak()) for version, stream in after.items()},
    )
    return after, evidence


def digest_of(context: Context, monitor: Monitor, version: int) -> str | None:
    """Return the package of a version: the one that is deployed, else the one known when monitoring began."""
    deployed = context.store.maybe(Revision, revision_id(monitor.environment, monitor.model, version))
    return deployed.digest if deployed is not None else monitor.digests.get(str(version))


def needed_digest(digest: str | None, monitor: Monitor, version: int) -> str:
    """Return the digest, or say that nobody knows it."""
    if digest is None:
        raise NotFound(
            f"nothing says which package version {version} of {monitor.model} is",
            where=monitor.id,
            remedy="start monitoring again after the version is registered",
        )
    return digest


def new_control(q: float) -> dict[str, dict[str, Any]]:
    """Return fresh false-discovery control for each family of a version."""
    from mlcycle_nb.stats.multiple_testing import OnlineFdr

    return {family: asdict(OnlineFdr(q=q)) for family in FAMILY_KINDS}
