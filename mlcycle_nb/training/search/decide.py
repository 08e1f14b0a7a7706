"""What to do next with a search: a pure function of its record, what is seen of its trials, and the time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime

from mlcycle_nb.training.records import Failure, TrainingJob
from mlcycle_nb.training.search.records import MAX_REPORTS, SearchTrial, TrainingSearch

MAX_TRIES = 3
"""Jobs that are made for one trial: a job recovers by itself, and what died beyond that is tried anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTrial:
    """A trial without a result, with what is seen of it.

    Attributes
    ----------
    job : TrainingJob, optional
        None while there is none, or when it is gone.
    reports : tuple of float
        The metric as the workers have reported it so far.
    judged : int
        How many of them were judged.
    names : tuple of str
        All metrics that the workers have reported.
    """

    trial: SearchTrial
    job: TrainingJob | None = None
    reports: tuple[float, ...] = ()
    judged: int = 0
    names: tuple[str, ...] = ()

    @property
    def in_work(self) -> bool:
        """Whether workers are at it, or about to be."""
        return self.trial.phase != "waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchObservation:
    """What is seen of a search: its open trials by number, and whether memory allows for one more."""

    open: tuple[OpenTrial, ...] = ()
    memory_allows: bool = True


@dataclass(frozen=True, slots=True)
class Track:
    """Start the run that the trials' runs are nested in."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Draw trial `number`."""

    number: int


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Make a trial's job, or set the one that was stopped going again."""

    number: int


@dataclass(frozen=True, slots=True)
class Judge:
    """Judge the reports from the `first`-th on, and have the trial end if it is among the worst."""

    number: int
    first: int


@dataclass(frozen=True, slots=True)
class StopTrial:
    """Have a trial's job take a checkpoint and end."""

    number: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Set a trial aside whose job was stopped with the search."""

    number: int


@dataclass(frozen=True, slots=True)
class Requeue:
    """Try a trial anew whose job died, or is gone."""

    number: int
    why: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Store a trial's result; `fatal` ends the search as well."""

    number: int
    phase: str  # complete, pruned, failed or stopped
    value: float | None = None
    failure: Failure | None = None
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class Register:
    """Register the best trial's model and make it the candidate."""


@dataclass(frozen=True, slots=True)
class Close:
    """End the search."""

    phase: str
    failure: Failure | None = None


Action = Track | Draw | Dispatch | Judge | StopTrial | Pause | Requeue | Tell | Register | Close


def next_action(search: TrainingSearch, seen: SearchObservation, now: datetime) -> Action | None:
    """Return the next action, or None when there is nothing to do yet."""
    if search.phase != "running":
        return None
    ending = _ending(search)
    if not search.run_open and not ending:
        return Track()
    for one in seen.open:
        action = _for_trial(search, one, seen, ending)
        if action is not None:
            return action
    in_work = sum(one.in_work for one in seen.open)
    if ending:
        return None if in_work else _end(search)
    if in_work < search.concurrent and (in_work == 0 or seen.memory_allows):
        waiting = next((one.trial.number for one in seen.open if not one.in_work), None)
        if waiting is not None:
            return Dispatch(waiting)
        if search.asked < search.trials:
            return Draw(search.asked)
    if seen.open or search.ended < search.trials:
        return None
    if search.register and search.best is not None and search.registered is None and not search.registration_error:
        return Register()
    if search.best is None:
        return Close("failed", Failure(kind="search", message="no trial was completed"))
    return Close("finished")


def with_result(search: TrainingSearch, told: Tell, job: str) -> TrainingSearch:
    """Return a search with one more result: counts, the best so far, and the end after many failures in a row."""
    failed = told.phase == "failed"
    in_a_row = 0 if told.phase in {"complete", "pruned"} else search.failures_in_a_row + failed
    result = replace(
        search,
        ended=search.ended + 1,
        failures_in_a_row=in_a_row,
        reported=search.reported or told.phase in {"complete", "pruned"},
    )
    if told.phase == "complete" and told.value is not None and search.better(told.value):
        result = replace(result, best=told.number, best_value=told.value, best_job=job)
    if not failed or search.failure is not None:
        return result
    message = f"trial {told.number}: {told.failure}"
    if told.fatal:
        return replace(result, failure=Failure(kind="metric", message=message))
    if in_a_row >= search.max_failures:
        times = f"{in_a_row} trials failed in a row, the last one" if in_a_row > 1 else "a trial failed"
        return replace(result, failure=Failure(kind="search", message=f"{times}: {message}"))
    return result


def _ending(search: TrainingSearch) -> bool:
    return search.stop_requested_at is not None or search.failure is not None


def _end(search: TrainingSearch) -> Close:
    return Close("stopped") if search.failure is None else Close("failed", search.failure)


def _for_trial(search: TrainingSearch, one: OpenTrial, seen: SearchObservation, ending: bool) -> Action | None:
    if not one.in_work:
        return None
    number, job = one.trial.number, one.job
    if one.trial.phase == "pruning" and (job is None or not job.active):
        return Tell(number, "pruned", one.trial.reports[-1])
    if job is None:
        return Requeue(number, "its job is gone")
    if one.trial.phase == "running" and min(len(one.reports), MAX_REPORTS) > one.judged:
        return Judge(number, one.judged)
    if not job.active:
        return _after_job(search, one, job, seen, ending)
    if ending and one.trial.phase != "stopping" and job.stop_requested_at is None:
        return StopTrial(number)
    return None


def _after_job(
    search: TrainingSearch, one: OpenTrial, job: TrainingJob, seen: SearchObservation, ending: bool
) -> Action:
    number = one.trial.number
    if job.phase == "pruned":  # it was told so before the decision could be stored
        return Tell(number, "pruned", one.reports[-1])
    if job.phase == "finished":
        return _after_finish(search, one, seen)
    if job.phase == "failed":
        failure = job.failure or Failure(kind="crash", message="it failed")
        if failure.kind == "crash" and one.trial.tries < MAX_TRIES and not ending:
            return Requeue(number, str(failure))
        return Tell(number, "failed", failure=failure)
    if one.trial.phase == "stopping":
        return Pause(number)
    return Tell(number, "stopped", failure=Failure(kind="stopped", message="it was stopped by hand"))


def _after_finish(search: TrainingSearch, one: OpenTrial, seen: SearchObservation) -> Action:
    number = one.trial.number
    if not one.reports:
        listed = f"reported were {', '.join(one.names)}" if one.names else "nothing was reported"
        failure = Failure(kind="metric", message=f"the cell ended without reporting {search.metric!r}; {listed}")
        known = search.reported or any(other.reports for other in seen.open)
        return Tell(number, "failed", failure=failure, fatal=not known)
    value = one.reports[-1]
    if not math.isfinite(value):
        failure = Failure(kind="non_finite", message=f"{search.metric} became {value}")
        return Tell(number, "failed", failure=failure)
    return Tell(number, "complete", value)
