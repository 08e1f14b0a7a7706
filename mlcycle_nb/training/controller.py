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
from mlcycle_nb.development.reproduce.report import REPRODUCES_TAG
from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.files import write_atomically
from mlcycle_nb.store import Record
from mlcycle_nb.supervisor.controller import Controller
from mlcycle_nb.supervisor.crash import crash_point
from mlcycle_nb.training import decide, memory, nodes, stalls
from mlcycle_nb.training.checkpoints import CheckpointStore
from mlcycle_nb.training.decide import JobObservation
from mlcycle_nb.training.events import EventReader
from mlcycle_nb.training.failures import read_failures, read_skip
from mlcycle_nb.training.heartbeat import read_beats
from mlcycle_nb.training.job_folder import JobFolder, read_document
from mlcycle_nb.training.launch import plan_launch, process_name
from mlcycle_nb.training.records import Failure, Restart, Rollback, TrainingJob
from mlcycle_nb.training.registration import register_job
from mlcycle_nb.training.tracking import metric_rows, newer

if TYPE_CHECKING:
    from mlcycle_nb.development.service import ModelDevelopmentManager

_COLLECT_SECONDS = 1.0
_RUN_STATUS = {"stopped": "killed", "pruned": "finished"}
_BOOT = Path("/proc/sys/kernel/random/boot_id")


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
        self._quiet = stalls.QuietWatch()

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
        seen = self._observed(record)
        if alive:
            sign = stalls.sign_of_progress(folder, record.attempt, str(seen.get("stage", "")))
            return JobObservation(
                alive=True,
                unread_events=unread and due,
                stop_told=folder.stop_request.exists(),
                quiet_seconds=self._quiet.quiet_seconds(record.id, sign),
                starting=seen.get("stage") == "starting",
                stacks_asked=stalls.stacks_asked(folder, record.attempt),
            )
        self._quiet.forget(record.id)
        newest = CheckpointStore(folder.checkpoints).records()
        kills = memory.kills()
        beats = read_beats(folder.path)
        resident = {rank: beat.memory_bytes for rank, beat in beats.items() if beat.attempt == record.attempt}
        told = read_document(folder.told_of(record.attempt))
        return JobObservation(
            outcome=None if outcome is None else str(outcome["outcome"]),
            failures=read_failures(folder, record.attempt, record.processes),
            unread_events=unread,
            checkpoint_step=newest[0].step if newest else None,
            out_of_memory=memory.evidence(seen.get("memory_kills", kills), kills, resident, memory.limit_bytes()),
            told=None if told is None else decide.Told(str(told["cause"]), int(told["rank"])),
            unsaved="" if outcome is None else str(outcome.get("unsaved", "")),
            rebooted=seen.get("boot", _boot()) != _boot(),
            skip=read_skip(folder, record.attempt, record.processes),
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
            case decide.AskForStacks():
                launcher = self._context.processes.get(process_name(record.id, record.attempt))
                stalls.ask_for_stacks(job_folder(self._context, record.id), launcher, record.attempt)
            case decide.KillStalled():
                self._kill_stalled(record, observation.quiet_seconds)
            case decide.RollBack():
                self._roll_back(record, action)
            case decide.End(phase, failure, ending):
                self._end(record, phase, failure, ending)

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
            skips = [(back.epoch, back.first_batch, back.last_batch) for back in record.rollbacks]
            if skips:
                write_atomically(folder.skips, json.dumps(skips))
            if record.run_id is not None:
                self._development.reopen_run(record.run_id)  # it has ended when the job was stopped
            plan = plan_launch(folder, folder.read_spec(), attempt)
            env = dict(plan.env)
            if record.script:  # its trackers log to our run, which has to be there before they look for it
                record = self._with_run(record)
                env |= self._tracking_env(record)
            self._context.processes.ensure(name, plan.argv, env=env, cwd=folder.path, log=folder.launcher_log)
        crash_point("training.after_launch")
        told = {"memory_kills": memory.kills(), "boot": _boot(), "stage": "starting", "rank_steps": {}}
        self._context.store.observe(TrainingJob, record.id, **told)
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
        stage, rank_steps = str(seen.get("stage", "")), dict(seen.get("rank_steps", {}))
        progress: dict[str, Any] = {}
        for event in events:
            if event["attempt"] == record.attempt:
                stage = stalls.stage_after(stage, event)
                if event["kind"] == "steps":
                    rank_steps[str(event["rank"])] = event["rows"][-1][0]
            if event["kind"] == "fit":
                total = event["total_steps"]
                progress |= {"total_steps": total, "epochs": event["epochs"], "step": event["step"]}
                progress["best"] = event.get("best", "")
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
        progress |= {"stage": stage, "rank_steps": rank_steps}
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

    def _roll_back(self, record: TrainingJob, action: decide.RollBack) -> None:
        now, (epoch, first, last) = self._context.clock.now(), action.skip
        failure, from_step = action.failure, action.from_step
        why = f"{failure.message}; rolled back, passing over batches {first} to {last} of epoch {epoch + 1}"
        back = Rollback(
            attempt=record.attempt,
            at=now,
            kind=failure.kind,
            why=failure.message,
            from_step=from_step,
            epoch=epoch,
            first_batch=first,
            last_batch=last,
        )
        waiting = replace(
            record,
            phase="restarting",
            restarts=(*record.restarts, Restart(attempt=record.attempt, at=now, why=why, from_step=from_step)),
            rollbacks=(*record.rollbacks, back),
            checkpoint_step=from_step,
            next_attempt_at=now,
        )
        detail = {"why": failure.message, "kind": failure.kind, "from_step": from_step, "skip": list(action.skip)}
        self._store(waiting, "training.rolled_back", detail)

    def _kill_stalled(self, record: TrainingJob, quiet_seconds: float) -> None:
        folder, name = job_folder(self._context, record.id), process_name(record.id, record.attempt)
        told = self._observed(record).get("rank_steps", {})
        stalls.note_stall(
            folder,
            self._context.processes.get(name),
            record.attempt,
            cell=folder.cell.read_text(),
            steps={rank: int(told.get(str(rank), 0)) for rank in range(record.processes)},
            quiet_seconds=quiet_seconds,
        )
        crash_point("training.before_stall_kill")
        self._context.processes.stop(name, grace_seconds=0.0)

    def _end(self, record: TrainingJob, phase: str, failure: Failure | None, ending: str = "") -> None:
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
            ending=ending,
            ended_early=str(seen.get("ended_early", "")),
            handed_over=handed_over,
            registered=registered,
            registration_error=registration_error,
            next_attempt_at=None,
        )
        if record.nodes > 1:
            nodes.tell_end(folder, phase, failure)
        detail = {"steps": ended.steps, "failure": None if failure is None else str(failure)}
        detail |= {"ending": ending} if ending else {}
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
        if record.reproduces:
            tags |= {REPRODUCES_TAG: record.reproduces}
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


def _boot() -> str:
    """Return what tells one start of this machine from the next; empty where the kernel does not say."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def _storable(value: Any) -> Any:
    """Return JSON that has a spelling for NaN."""
    return json.loads(json.dumps(value), parse_constant=str)
