"""What to do next with a training job: a pure function of its record, what is seen, and the time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from mlcycle_nb.training.records import Failure, TrainingJob

STOP_GRACE = timedelta(seconds=60)
_FIRST_WAIT_SECONDS = 0.5
_LAST_WAIT_SECONDS = 30.0
_FINAL_KINDS = ("user", "non_finite", "out_of_memory", "disk")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobObservation:
    """What is seen of the job's current attempt."""

    alive: bool = False
    outcome: str | None = None  # finished or stopped, as rank 0 wrote it
    failures: tuple[Failure, ...] = ()
    unread_events: bool = False  # there are events to hand on, and it is time
    checkpoint_step: int | None = None
    stop_told: bool = False
    out_of_memory: bool = False  # the kernel killed a process of this machine's group meanwhile


@dataclass(frozen=True, slots=True)
class Launch:
    """Start attempt number `attempt`."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Track:
    """Start the run that the job is tracked in, while the workers are starting."""


@dataclass(frozen=True, slots=True)
class Collect:
    """Hand new events on to the run."""


@dataclass(frozen=True, slots=True)
class TellToStop:
    """Ask the workers for a checkpoint and a clean end."""


@dataclass(frozen=True, slots=True)
class Kill:
    """End the workers, which did not answer within the grace."""


@dataclass(frozen=True, slots=True)
class Recover:
    """Note a crash and start again after a wait."""

    why: str
    from_step: int | None
    wait_seconds: float
    crashes_in_a_row: int


@dataclass(frozen=True, slots=True)
class End:
    """Close the job."""

    phase: str
    failure: Failure | None = None


Action = Launch | Track | Collect | TellToStop | Kill | Recover | End


def next_action(job: TrainingJob, seen: JobObservation, now: datetime) -> Action | None:
    """Return the next action, or None when there is nothing to do yet."""
    if job.phase == "queued":
        return End("stopped") if job.stop_requested_at else Launch(1)
    if job.phase == "restarting":
        if job.stop_requested_at:
            return End("stopped")
        return Launch(job.attempt + 1) if job.next_attempt_at is None or now >= job.next_attempt_at else None
    if job.phase != "running":
        return None
    if seen.alive:
        return _while_alive(job, seen, now)
    if seen.unread_events:  # whatever it became, its last words come first
        return Collect()
    return _after_end(job, seen)


def _while_alive(job: TrainingJob, seen: JobObservation, now: datetime) -> Action | None:
    if job.stop_requested_at is not None:
        if not seen.stop_told:
            return TellToStop()
        if now - job.stop_requested_at >= STOP_GRACE:
            return Kill()
    if job.run_id is None:
        return Track()
    return Collect() if seen.unread_events else None


def _after_end(job: TrainingJob, seen: JobObservation) -> Action:
    if seen.outcome == "finished":
        return End("finished")
    final = [failure for failure in seen.failures if failure.kind in _FINAL_KINDS]
    if final:
        return End("failed", final[0])
    if job.stop_requested_at is not None:
        return End("stopped")
    if seen.outcome == "stopped":  # it was told to end by a signal that nobody asked us for: a shutdown, an eviction
        return Recover("it was told to end from outside", seen.checkpoint_step, 0.0, 0)
    return _after_crash(job, seen)


def _after_crash(job: TrainingJob, seen: JobObservation) -> Action:
    why = "the kernel ran out of memory and killed a process" if seen.out_of_memory else _why(seen)
    progressed = seen.checkpoint_step is not None and seen.checkpoint_step > (job.checkpoint_step or -1)
    crashes = 1 if progressed else job.crashes_in_a_row + 1
    if crashes > job.max_restarts:
        times = f"{crashes} times in a row" if crashes > 1 else "once"
        problem = f"the workers died {times} without a new checkpoint: {why}"
        return End("failed", Failure(kind="out_of_memory" if seen.out_of_memory else "crash", message=problem))
    wait = 0.0 if crashes == 1 else min(_FIRST_WAIT_SECONDS * 2 ** (crashes - 2), _LAST_WAIT_SECONDS)
    return Recover(why, seen.checkpoint_step, wait, crashes)


def _why(seen: JobObservation) -> str:
    if seen.failures:
        return f"rank {seen.failures[0].rank} lost the others"
    return "a worker or its launcher was killed"
