"""From a wish and a recording to a replay: finds packages and labels, and asks the worker."""

from __future__ import annotations

from datetime import datetime

from mlcycle_nb.context import Context
from mlcycle_nb.monitoring.recording import Recording, find_recording
from mlcycle_nb.monitoring.records import Monitor
from mlcycle_nb.monitoring.replay import Replay, replay
from mlcycle_nb.monitoring.verdicts import digest_of, needed_digest
from mlcycle_nb.monitoring.worker_client import PROCESS, WorkerClient
from mlcycle_nb.serving.labels import LabelStore


def rehearse(context: Context, monitor: Monitor, recorded: str) -> Replay:
    """Replay recorded traffic; the worker judges each window, between those of live monitors."""
    recording = find_recording(context.home, monitor.environment, monitor.model, recorded)
    digests = {
        version: needed_digest(digest_of(context, monitor, version), monitor, version) for version in recording.segments
    }
    worker, ran = WorkerClient(context), context.processes.get(PROCESS) is not None
    try:
        return replay(monitor, recording, digests, _label_times(context, monitor, recording), worker.ask)
    finally:
        if not ran and not context.store.find(Monitor, phase="running"):
            worker.stop()


def _label_times(context: Context, monitor: Monitor, recording: Recording) -> list[datetime]:
    """Return when labels of the recorded predictions were known, each time once."""
    labels = LabelStore(context.home / "labels", monitor.environment, monitor.model).all()
    if labels is None:
        return []
    ids = recording.ids(context.home / "predictions" / monitor.environment / monitor.model)
    pairs = zip(labels["prediction_id"].to_pylist(), labels["received_at"].to_pylist(), strict=True)
    return sorted({moment for key, moment in pairs if key in ids})
