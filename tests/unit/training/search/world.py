"""A search without processes: the real controller, store and study; workers that write what real ones write."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from mlcycle_nb.context import Context
from mlcycle_nb.training.events import EventWriter
from mlcycle_nb.training.job_folder import JobSpec
from mlcycle_nb.training.records import Failure, TrainingJob
from mlcycle_nb.training.search import controller as module
from mlcycle_nb.training.search import study
from mlcycle_nb.training.search.controller import SearchController
from mlcycle_nb.training.search.records import SearchTrial, TrainingSearch
from mlcycle_nb.training.search.space import parse_space
from mlcycle_nb.training.search.trial_jobs import job_folder, search_folder

SPACE = ("lr=log:1e-4..1e-1", "width=8,16,32", "depth=int:1..4")


class Killed(BaseException):
    """The supervisor is gone: nothing below the place where it was raised has happened."""


class Tracking:
    """Counts runs instead of keeping them: MLflow has tests of its own, and takes seconds to open."""

    def __init__(self) -> None:
        self.started: dict[str, str] = {}
        self.open: set[str] = set()

    def start_run(self, experiment: str, *, run_name: str, tags: dict[str, str], **_: Any) -> Any:
        run = type("Run", (), {"id": f"run-{len(self.started)}", "name": run_name, "tags": tags})()
        run.log_hyperparameters = lambda values: None
        self.started[run.id] = run_name
        self.open.add(run.id)
        self.runs_made = [*getattr(self, "runs_made", []), run]
        return run

    def runs(self, experiment: str) -> list[Any]:
        return list(getattr(self, "runs_made", []))

    def reopen_run(self, run_id: str) -> None:
        self.open.add(run_id)

    def end_run(self, run_id: str, status: str = "finished") -> None:
        self.open.discard(run_id)

    def log_metric_batch(self, run_id: str, rows: list[Any]) -> None:
        assert run_id in self.started


def make_search(context: Context, **changes: Any) -> TrainingSearch:
    """Store a search and the folder that its jobs begin with."""
    asked: dict[str, Any] = {"trials": 5, "concurrent": 1, "max_failures": 3, "pruner": "median", "sampler": "tpe"}
    search = TrainingSearch(
        id="digits-search-1",
        phase="running",
        created_at=context.clock.now(),
        model="digits",
        key="k",
        cell_digest="c",
        data_digest="d",
        space=parse_space(changes.pop("space", SPACE)),
        metric="score",
        direction="maximize",
        seed=7,
        processes=1,
        epochs=3,
        params={"fixed": 1},
        **{**asked, **changes},
    )
    folder = search_folder(context, search.id)
    folder.make()
    folder.cell.write_text("pass")
    folder.provenance.write_text('{"cell": null}')
    (folder.payload / "payload.pkl").write_bytes(b"data")
    spec: dict[str, Any] = dict.fromkeys(JobSpec.__dataclass_fields__, 0)
    spec |= {"job": search.id, "model": "digits", "params": {"fixed": 1}, "sys_path": [], "script_args": []}
    folder.write_spec(JobSpec(**spec))
    with context.store.transaction(actor="tester") as transaction:
        return transaction.insert(search, event="search.submitted")


def score(params: dict[str, Any], epoch: int) -> float:
    """What a trial reports: the same for the same hyperparameters, and different for others."""
    return (epoch + 1) * (5 + math.log10(params["lr"]) + params["depth"] / 7 + params["width"] / 50)


class Workers:
    """Carries jobs on, an epoch a turn.

    Parameters
    ----------
    dies : callable
        Job id -> failure with which the job ends instead of its second epoch, or None.
    """

    def __init__(self, context: Context, dies: Callable[[str], Failure | None] = lambda job: None) -> None:
        self.context, self.dies = context, dies
        self.epochs: dict[str, int] = {}
        self.value = score
        self.metric = "score"
        self.trained: list[str] = []

    def turn(self) -> None:
        for job in self.context.store.find(TrainingJob, active=True):
            self._carry_on(job)

    def _carry_on(self, job: TrainingJob) -> None:
        folder, epoch = job_folder(self.context, job.id), self.epochs.get(job.id, 0)
        assert (folder.payload / "payload.pkl").read_bytes() == b"data"
        assert folder.read_spec().params == job.params
        if epoch == 0 and job.id not in self.trained:
            self.trained.append(job.id)
        if job.stop_requested_at is not None:
            self._end(job, "stopped")
        elif folder.prune_request.exists() and epoch < 3:
            self._end(job, "pruned")
        elif epoch == 1 and (failure := self.dies(job.id)) is not None:
            self._end(job, "failed", failure)
        elif epoch == 3:
            self._end(job, "finished")
        else:
            writer = EventWriter(folder.events_of(0), rank=0, attempt=1)
            writer.write("epoch", epoch=epoch, step=epoch * 10, values={self.metric: self.value(job.params, epoch)})
            writer.close()
            self.epochs[job.id] = epoch + 1

    def _end(self, job: TrainingJob, phase: str, failure: Failure | None = None) -> None:
        ended = replace(job, phase=phase, failure=failure, ended_at=self.context.clock.now())
        with self.context.store.transaction(actor="tester") as transaction:
            transaction.update(ended, event=f"training.{phase}")


class Search:
    """Drives one search turn by turn, with supervisors that are killed and replaced."""

    def __init__(self, context: Context, workers: Workers, killed_at: frozenset[int | str] = frozenset()) -> None:
        self.context, self.workers, self.killed_at = context, workers, killed_at
        self.tracking = Tracking()
        self.places = 0
        self.kills = 0
        self.visited: set[str] = set()
        self._controller: SearchController | None = None

    def run(self, turns: int = 400) -> TrainingSearch:
        """Turn until the search is over."""
        with self._killing():
            for _ in range(turns):
                record = self.record
                if not record.active:
                    return record
                self.turn(record)
                self.workers.turn()
        raise AssertionError(f"not over after {turns} turns: {self.record!r}")

    def turn(self, record: TrainingSearch) -> None:
        if self._controller is None:
            self._controller = SearchController(self.context, self.tracking)  # type: ignore[arg-type]
        try:
            seen = self._controller.observe(record)
            action = self._controller.next_action(record, seen, self.context.clock.now())
            if action is not None:
                self._controller.act(action, record, seen)
        except Killed:
            self.kills += 1
            self._controller = None

    @property
    def record(self) -> TrainingSearch:
        return self.context.store.get(TrainingSearch, "digits-search-1")

    @property
    def trials(self) -> list[SearchTrial]:
        found = self.context.store.find(SearchTrial, name="digits-search-1")
        return sorted(found, key=lambda trial: trial.number)

    def results(self) -> list[tuple[Any, ...]]:
        return [(t.number, t.phase, sorted(t.params.items()), t.value, t.reports) for t in self.trials]

    @contextmanager
    def _killing(self) -> Iterator[None]:
        """Kill the supervisor at the numbered places: crash points, and before and after every commit of ours."""
        real_point, real_transaction = module.crash_point, self.context.store.transaction

        def place(name: str) -> None:
            self.places += 1
            first = name not in self.visited
            self.visited.add(name)
            if self.places in self.killed_at or (first and name in self.killed_at):
                raise Killed(name)

        @contextmanager
        def transaction(actor: str) -> Iterator[Any]:
            mine = actor == self.context.actor
            if mine:
                place("before commit")
            with real_transaction(actor) as opened:
                yield opened
            if mine:
                place("after commit")

        module.crash_point = study.crash_point = place
        self.context.store.transaction = transaction  # type: ignore[method-assign]
        try:
            yield
        finally:
            module.crash_point = study.crash_point = real_point
            self.context.store.transaction = real_transaction  # type: ignore[method-assign]
