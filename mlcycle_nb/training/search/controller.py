"""The supervisor's part of a search: draw trials, start their jobs, judge and record them."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlcycle_nb.context import Context
from mlcycle_nb.development.provenance import Provenance
from mlcycle_nb.development.records import MetricRow
from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.store import Record
from mlcycle_nb.supervisor.controller import Controller
from mlcycle_nb.supervisor.crash import crash_point
from mlcycle_nb.training.heartbeat import read_beats
from mlcycle_nb.training.records import TrainingJob
from mlcycle_nb.training.registration import register_job
from mlcycle_nb.training.search import decide, trial_jobs
from mlcycle_nb.training.search.decide import OpenTrial, SearchObservation
from mlcycle_nb.training.search.means import memory_allows
from mlcycle_nb.training.search.records import MAX_REPORTS, OPEN, SearchTrial, TrainingSearch, kept, trial_id
from mlcycle_nb.training.search.reports import ReportReader
from mlcycle_nb.training.search.study import Studies

if TYPE_CHECKING:
    from mlcycle_nb.development.service import ModelDevelopmentManager

CANDIDATE = "candidate"
_RUN_STATUS = {"stopped": "killed"}


def build(context: Context) -> list[Controller]:
    """Return the controller of searches."""
    from mlcycle_nb.development.service import ModelDevelopmentManager

    return [SearchController(context, ModelDevelopmentManager(context))]


class SearchController:
    """Brings searches to their end."""

    record_type: type[Record] = TrainingSearch

    def __init__(self, context: Context, development: ModelDevelopmentManager) -> None:
        self._context = context
        self._development = development
        self._studies = Studies(context.home, context.settings.workspace.database_url)
        self._readers: dict[str, ReportReader] = {}
        self._largest: dict[str, int] = {}  # search: memory of its largest trial

    def next_action(self, record: TrainingSearch, observation: SearchObservation, now: datetime) -> Any:
        """Delegate to the pure function."""
        return decide.next_action(record, observation, now)

    def observe(self, record: TrainingSearch) -> SearchObservation:
        """Look at the trials without a result: their jobs, and what these have reported."""
        trials = self._context.store.find(SearchTrial, name=record.id, phase=OPEN, newest_first=False)
        seen = tuple(self._look(record, trial) for trial in sorted(trials, key=lambda trial: trial.number))
        return SearchObservation(open=seen, memory_allows=memory_allows(self._largest.get(record.id, 0)))

    def act(self, action: decide.Action, record: TrainingSearch, observation: SearchObservation) -> None:
        """Do one action; each may be done again after a crash in the middle of it."""
        seen = {one.trial.number: one for one in observation.open}
        match action:
            case decide.Track():
                self._track(record)
            case decide.Draw(number):
                self._draw(record, number)
            case decide.Dispatch(number):
                self._dispatch(record, seen[number])
            case decide.Judge(number, first):
                self._judge(record, seen[number], first)
            case decide.StopTrial(number):
                self._stop(seen[number])
            case decide.Pause(number):
                self._change(seen[number].trial, "trial.paused", phase="waiting")
            case decide.Requeue(number, why):
                self._change(seen[number].trial, "trial.requeued", {"why": why}, phase="waiting", job="")
            case decide.Tell():
                self._tell(record, seen[action.number], action)
            case decide.Register():
                self._register(record)
            case decide.Close(phase, failure):
                self._close(record, phase, failure)

    # -- looking ---------------------------------------------------------------------------------------------

    def _look(self, search: TrainingSearch, trial: SearchTrial) -> OpenTrial:
        job = self._context.store.maybe(TrainingJob, trial.job) if trial.job else None
        if job is None or trial.phase == "waiting":
            return OpenTrial(trial=trial, job=job)
        reader = self._readers.get(job.id)
        if reader is None:
            events = trial_jobs.job_folder(self._context, job.id).events
            reader = self._readers[job.id] = ReportReader(events, search.metric)
        reports = reader.read()
        taken = sum(
            beat.memory_bytes for beat in read_beats(trial_jobs.job_folder(self._context, job.id).path).values()
        )
        self._largest[search.id] = max(self._largest.get(search.id, 0), taken)
        judged = len(self._context.store.observed(SearchTrial, trial.id).get("reports", ()))
        return OpenTrial(trial=trial, job=job, reports=reports, judged=judged, names=reader.names)

    # -- actions ---------------------------------------------------------------------------------------------

    def _track(self, search: TrainingSearch) -> None:
        if search.run_id is not None:
            self._development.reopen_run(search.run_id)
            run_id = search.run_id
        elif (left := self._started_before(search)) is not None:
            run_id = left
        else:
            self._context.store.observe(TrainingSearch, search.id, tracking=True)
            folder = trial_jobs.search_folder(self._context, search.id)
            run = self._development.start_run(
                search.experiment or search.model,
                run_name=search.id,
                tags={"training.search": search.id},
                current=False,
                origin=Provenance.from_json(folder.provenance.read_text()),
            )
            named: dict[str, Any] = {"sampler": search.sampler, "pruner": search.pruner, "metric": search.metric}
            named |= {"direction": search.direction, "seed": search.seed, "epochs": search.epochs}
            space = {f"space.{entry.name}": str(entry).partition("=")[2][:500] for entry in search.space}
            run.log_hyperparameters({**search.params, **named, **space})
            run_id = run.id
        crash_point("search.after_track")
        self._update(search, "search.tracked", {"run": run_id}, run_id=run_id, run_open=True)

    def _draw(self, search: TrainingSearch, number: int) -> None:
        params = self._studies.draw(search, number)
        crash_point("search.after_draw")
        trial = SearchTrial(
            id=trial_id(search.id, number),
            phase="waiting",
            created_at=self._context.clock.now(),
            search=search.id,
            number=number,
            params=params,
        )
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            transaction.insert(trial, event="trial.drawn", detail={"params": params})
            transaction.update(replace(search, asked=number + 1), event="search.drawn", detail={"trial": number})

    def _dispatch(self, search: TrainingSearch, one: OpenTrial) -> None:
        trial, now = one.trial, self._context.clock.now()
        resumed = one.job is not None
        if one.job is not None:
            if one.job.run_id is not None:
                self._development.reopen_run(one.job.run_id)
            job, tries = trial_jobs.go_on(self._context, one.job), trial.tries
        else:
            name, tries = trial_jobs.job_name(trial), trial.tries + 1
            trial_jobs.make_folder(self._context, search, trial, name)
            job = trial_jobs.make_job(search, trial, name, now)
        crash_point("search.after_folder")
        detail = {"search": search.id, "trial": trial.number}
        running = replace(trial, phase="running", job=job.id, tries=tries, started_at=trial.started_at or now)
        self._forget(job.id)
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            if resumed:
                transaction.update(job, event="training.resumed", detail=detail)
            else:
                transaction.insert(job, event="training.submitted", detail=detail)
            transaction.update(running, event="trial.started", detail={"job": job.id})

    def _judge(self, search: TrainingSearch, one: OpenTrial, first: int) -> None:
        for position in range(first, min(len(one.reports), MAX_REPORTS)):
            value, report = one.reports[position], position + 1
            worst = math.isfinite(value) and self._studies.judge(search, one.trial.number, report, value)
            crash_point("search.after_judge")
            known = kept(one.reports[:report])
            if worst and not 1 < search.epochs <= report:  # what has come to its last epoch is not thrown away
                trial_jobs.job_folder(self._context, one.trial.job).prune_request.touch(mode=0o600)
                # The verdict is stored before it counts as judged: after a kill between the two it is given once more,
                # on the same report, whatever the workers have reported since.
                self._change(one.trial, "trial.pruning", {"report": report}, phase="pruning", reports=known)
                self._observe(one.trial, known)
                return
        self._observe(one.trial, kept(one.reports))

    def _stop(self, one: OpenTrial) -> None:
        assert one.job is not None  # a trial in work has one: the decision says so
        asked = replace(one.job, stop_requested_at=self._context.clock.now())
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            transaction.update(asked, event="training.stop_requested", reason=f"search {one.trial.search} ends")
            if one.trial.phase == "running":
                transaction.update(replace(one.trial, phase="stopping"), event="trial.stopping")

    def _tell(self, search: TrainingSearch, one: OpenTrial, told: decide.Tell) -> None:
        self._studies.tell(search, told.number, told.phase, told.value)
        crash_point("search.after_tell")
        result = decide.with_result(search, told, one.trial.job)
        self._log_best(result, told)
        ended = replace(
            one.trial,
            phase=told.phase,
            value=told.value,
            failure=told.failure,
            reports=one.trial.reports or kept(one.reports),
            ended_at=self._context.clock.now(),
        )
        detail = {"value": told.value, "failure": None if told.failure is None else str(told.failure)}
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            transaction.update(ended, event=f"trial.{told.phase}", detail=detail)
            transaction.update(result, event="search.told", detail={"trial": told.number, "ended": result.ended})
        self._forget(one.trial.job)
        for job in {one.trial.job, search.best_job} - {result.best_job, ""}:
            trial_jobs.drop_checkpoints(self._context, job)

    def _register(self, search: TrainingSearch) -> None:
        job = self._context.store.get(TrainingJob, search.best_job)
        try:
            tags = {"training.search": search.id, "training.trial": str(search.best)}
            version = register_job(self._context, self._development, job, tags=tags)
            crash_point("search.after_register")
            reason = f"best of {search.ended} trials of {search.id}"
            self._development.set_alias(search.model, CANDIDATE, version.version, reason=reason)
        except MLCycleError as refused:  # the trials stay: the model can be registered with other options
            self._update(search, "search.registration_failed", registration_error=str(refused))
            return
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            detail = {"version": version.reference, "trial": search.best}
            transaction.update(replace(job, registered=version.reference), event="training.registered", detail=detail)
            transaction.update(replace(search, registered=version.reference), event="search.registered", detail=detail)

    def _close(self, search: TrainingSearch, phase: str, failure: Any) -> None:
        if search.run_id is not None:
            self._development.end_run(search.run_id, _RUN_STATUS.get(phase, phase))
        crash_point("search.before_close")
        detail = {"ended": search.ended, "best": search.best, "failure": None if failure is None else str(failure)}
        now = self._context.clock.now()
        self._update(search, f"search.{phase}", detail, phase=phase, failure=failure, ended_at=now, run_open=False)
        self._largest.pop(search.id, None)

    # -- parts -----------------------------------------------------------------------------------------------

    def _started_before(self, search: TrainingSearch) -> str | None:
        """Return the run that a supervisor started for the search and was killed before it could store it."""
        if not self._context.store.observed(TrainingSearch, search.id).get("tracking"):
            return None
        runs = self._development.runs(search.experiment or search.model)
        found = (run.id for run in runs if run.name == search.id and run.tags.get("training.search") == search.id)
        return next(found, None)

    def _log_best(self, search: TrainingSearch, told: decide.Tell) -> None:
        """Record the best so far in the search's run; the same trial told twice is one row."""
        if search.run_id is None or search.best_value is None:
            return
        row = MetricRow(key=f"best_{search.metric}", value=search.best_value, step=told.number, time=search.created_at)
        self._development.log_metric_batch(search.run_id, [row])

    def _observe(self, trial: SearchTrial, reports: tuple[float | None, ...]) -> None:
        self._context.store.observe(SearchTrial, trial.id, reports=reports)

    def _forget(self, job: str) -> None:
        self._readers.pop(job, None)

    def _change(self, trial: SearchTrial, event: str, detail: dict[str, Any] | None = None, **changes: Any) -> None:
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            transaction.update(replace(trial, **changes), event=event, detail=detail or {})

    def _update(self, search: TrainingSearch, event: str, detail: dict[str, Any] | None = None, **changes: Any) -> None:
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            transaction.update(replace(search, **changes), event=event, detail=detail or {})
