"""The supervisor's part: start the workers, hand their events on, recover them, close the job."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.context import Context
from mlcycle_nb.development.provenance import Provenance
from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.store import Record
from mlcycle_nb.supervisor.controller import Controller
from mlcycle_nb.supervisor.crash import crash_point
from mlcycle_nb.training import decide
from mlcycle_nb.training.checkpoints import CheckpointStore
from mlcycle_nb.training.decide import JobObservation
from mlcycle_nb.training.events import EventReader
from mlcycle_nb.training.failures import read_failures
from mlcycle_nb.training.job_folder import JobFolder, read_document
from mlcycle_nb.training.launch import plan_launch, process_name
from mlcycle_nb.training.records import Failure, Restart, TrainingJob
from mlcycle_nb.training.registration import register_job
from mlcycle_nb.training.tracking import metric_rows, newer

if TYPE_CHECKING:
    from mlcycle_nb.development.service import ModelDevelopmentManager

_COLLECT_SECONDS = 1.0
_RUN_STATUS = {"stopped": "killed", "pruned": "finished"}
_MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")


def build(context: Context) -> list[Controller]:
    """Return this stage's controllers."""
    from mlcycle_nb.development.service import ModelDevelopmentManager

    return [TrainingController(context, ModelDevelopmentManager(context))]


def job_folder(context: Context, job: str) -> JobFolder:
    """Return the folder of a job."""
    return JobFolder(context.folder("training", "jobs") / job)


class TrainingController:
    """Brings training jobs to their end."""

    record_type: type[Record] = TrainingJob

    def __init__(self, context: Context, development: ModelDevelopmentManager) -> None:
        self._context = context
        self._development = development
        self._collected_at: dict[str, float] = {}

    def next_action(self, record: TrainingJob, observation: JobObservation, now: datetime) -> decide.Action | None:
        """Delegate to the pure function."""
        return decide.next_action(record, observation, now)

    def observe(self, record: TrainingJob) -> JobObservation:
        """Look at the launcher, the documents the workers left, and the size of their event files."""
        if record.phase != "running":
            return JobObservation()
        folder = job_folder(self._context, record.id)
        alive = self._context.processes.get(process_name(record.id, record.attempt)) is not None
        outcome = read_document(folder.outcome_of(record.attempt))
        unread = self._unread(record, folder)
        due = time.monotonic() - self._collected_at.get(record.id, 0.0) >= _COLLECT_SECONDS
        if alive:
            return JobObservation(alive=True, unread_events=unread and due, stop_told=folder.stop_request.exists())
        newest = CheckpointStore(folder.checkpoints).records()
        return JobObservation(
            outcome=None if outcome is None else str(outcome["outcome"]),
            failures=read_failures(folder, record.attempt, record.processes),
            unread_events=unread,
            checkpoint_step=newest[0].step if newest else None,
            out_of_memory=_memory_kills() > self._observed(record).get("memory_kills", _memory_kills()),
        )

    def act(self, action: decide.Action, record: TrainingJob, observation: JobObservation) -> None:
        """Do one action."""
        match action:
            case decide.Launch(attempt):
                self._launch(record, attempt)
            case decide.Track():
                self._with_run(record)
            case decide.Collect():
                self._collect(record)
            case decide.TellToStop():
                job_folder(self._context, record.id).stop_request.touch(mode=0o600)
            case decide.Kill():
                self._context.processes.stop(process_name(record.id, record.attempt), grace_seconds=5.0)
            case decide.Recover():
                self._recover(record, action)
            case decide.End(phase, failure):
                self._end(record, phase, failure)

    # -- actions ---------------------------------------------------------------------------------------------

    def _launch(self, record: TrainingJob, attempt: int) -> None:
        folder = job_folder(self._context, record.id)
        if record.attempt:
            # A launcher that was killed may leave workers behind for a moment; two groups must never share a folder.
            self._context.processes.stop(process_name(record.id, record.attempt), grace_seconds=0.0)
        name = process_name(record.id, attempt)
        begun = folder.outcome_of(attempt).exists() or any(folder.errors.glob(f"attempt-{attempt}-*"))
        if not begun:  # else it was started, and has ended, before its start could be stored
            if self._context.processes.get(name) is None:
                for left in folder.run.glob(f"*-{attempt}"):
                    left.unlink()
            plan = plan_launch(folder, folder.read_spec(), attempt)
            env = dict(plan.env)
            if record.script:  # its trackers log to our run, which has to be there before they look for it
                record = self._with_run(record)
                env |= self._tracking_env(record)
            self._context.processes.ensure(name, plan.argv, env=env, cwd=folder.path, log=folder.launcher_log)
        crash_point("training.after_launch")
        self._context.store.observe(TrainingJob, record.id, memory_kills=_memory_kills())
        now = self._context.clock.now()
        started = replace(
            record, phase="running", attempt=attempt, started_at=record.started_at or now, next_attempt_at=None
        )
        self._store(started, "training.started", {"attempt": attempt})

    def _collect(self, record: TrainingJob) -> None:
        folder, seen = job_folder(self._context, record.id), self._observed(record)
        reader = EventReader(folder.events, seen.get("offsets"))
        events = list(reader.read())
        total = seen.get("total_steps")
        sent = dict(seen.get("sent", {}))
        progress: dict[str, Any] = {}
        for event in events:
            if event["kind"] == "fit":
                total = event["total_steps"]
                progress |= {"total_steps": total, "epochs": event["epochs"], "step": event["step"]}
            elif event["kind"] == "steps" and event["rank"] == 0:
                progress |= {"step": event["rows"][-1][0], "epoch": event["epoch"]}
            elif event["kind"] in {"epoch", "metrics"}:
                progress |= {"step": event["step"], "epoch": event["epoch"], "values": event["values"]}
            elif event["kind"] == "ended_early":
                progress["ended_early"] = event["reason"]
            elif event["kind"] == "started":
                progress |= {"world": event["world"], "device": event["device"]}
        rows = newer(metric_rows(events, total), sent)
        if rows:
            record = self._with_run(record)
            self._development.log_metric_batch(str(record.run_id), rows)
        crash_point("training.after_metrics")
        progress = {key: _storable(value) for key, value in progress.items()}
        self._context.store.observe(TrainingJob, record.id, offsets=reader.offsets, sent=sent, **progress)
        self._collected_at[record.id] = time.monotonic()

    def _recover(self, record: TrainingJob, action: decide.Recover) -> None:
        now = self._context.clock.now()
        restart = Restart(attempt=record.attempt, at=now, why=action.why, from_step=action.from_step)
        waiting = replace(
            record,
            phase="restarting",
            restarts=(*record.restarts, restart),
            crashes_in_a_row=action.crashes_in_a_row,
            checkpoint_step=action.from_step,
            next_attempt_at=now + timedelta(seconds=action.wait_seconds),
        )
        self._store(waiting, "training.recovering", {"why": action.why, "from_step": action.from_step})

    def _end(self, record: TrainingJob, phase: str, failure: Failure | None) -> None:
        if record.attempt:
            self._context.processes.stop(process_name(record.id, record.attempt), grace_seconds=0.0)
        folder, seen = job_folder(self._context, record.id), self._observed(record)
        if record.attempt:
            record = self._with_run(record)
            self._development.end_run(str(record.run_id), _RUN_STATUS.get(phase, phase))
        handed_over = (folder.result / "result.json").exists()
        registered, registration_error = None, ""
        if record.register and phase == "finished":
            try:
                registered = register_job(self._context, self._development, record).reference
            except MLCycleError as refused:  # what was trained stays: it can be registered with other options
                registration_error = str(refused)
        crash_point("training.before_end")
        ended = replace(
            record,
            phase=phase,
            failure=failure,
            ended_at=self._context.clock.now(),
            steps=int(seen.get("step", 0)),
            metrics=dict(seen.get("values", {})),
            ended_early=str(seen.get("ended_early", "")),
            handed_over=handed_over,
            registered=registered,
            registration_error=registration_error,
            next_attempt_at=None,
        )
        detail = {"steps": ended.steps, "failure": None if failure is None else str(failure)}
        self._store(ended, f"training.{phase}", detail)

    # -- parts -----------------------------------------------------------------------------------------------

    def _with_run(self, record: TrainingJob) -> TrainingJob:
        """Return the record with its run, started now when it has none: importing MLflow must not delay the cell."""
        if record.run_id is not None:
            return record
        folder = job_folder(self._context, record.id)
        origin = Provenance.from_json(folder.provenance.read_text())
        tags = {"training.job": record.id}
        if record.parent_run is not None:
            tags |= {"mlflow.parentRunId": record.parent_run, "training.search": record.search}
        if record.script:
            tags |= {"training.script": record.script, "training.script_args": shlex.join(record.script_args)}
        run = self._development.start_run(
            record.experiment or record.model, run_name=record.id, tags=tags, current=False, origin=origin
        )
        named = {"processes": record.processes, "epochs": record.epochs, "seed": record.seed}
        if record.script:  # a script logs its own, and MLflow refuses a second value for a name such as `seed`
            named = {}
        run.log_hyperparameters({**record.params, **named})
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            return transaction.update(replace(record, run_id=run.id), event="training.tracked", detail={"run": run.id})

    def _tracking_env(self, record: TrainingJob) -> dict[str, str]:
        """Return the variables by which Accelerate's MLflow tracker, and MLflow itself, find the job's run."""
        return {
            "MLFLOW_TRACKING_URI": self._development.tracking.uri,
            "MLFLOW_RUN_ID": str(record.run_id),
            "MLFLOW_EXPERIMENT_NAME": record.experiment or record.model,
        }

    def _store(self, record: TrainingJob, event: str, detail: dict[str, Any]) -> None:
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            transaction.update(record, event=event, detail=detail)

    def _observed(self, record: TrainingJob) -> dict[str, Any]:
        return self._context.store.observed(TrainingJob, record.id)

    def _unread(self, record: TrainingJob, folder: JobFolder) -> bool:
        offsets = self._observed(record).get("offsets", {})
        for path in folder.events.glob("rank-*.jsonl"):
            with path.open("rb") as source:
                source.seek(offsets.get(path.name, 0))
                if b"\n" in source.read(1_048_576):
                    return True
        return False


def _memory_kills() -> int:
    """Return how many processes of this machine's group the kernel killed for memory; 0 where it does not say."""
    try:
        for line in _MEMORY_EVENTS.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    except OSError:
        return 0
    return 0


def _storable(value: Any) -> Any:
    """Return JSON that has a spelling for NaN."""
    return json.loads(json.dumps(value), parse_constant=str)
