"""What to do next with a training job: a pure function of its record, what is seen, and the time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from mlcycle_nb.training.records import Failure, TrainingJob

KILL_MARGIN = timedelta(seconds=5)
"""What workers have beyond the grace: they say themselves why they could not stop, unless even that is impossible."""

STARTING_SECONDS = 300.0
"""How long the imports and the forming of a process group may take on a busy machine, at least."""

STACKS_SECONDS = 3.0
"""From asking stalled workers for their Python stacks to killing them."""

_FIRST_WAIT_SECONDS = 0.5
_LAST_WAIT_SECONDS = 30.0
_FINAL_KINDS = ("user", "disk", "nodes")
_SKIPPING_KINDS = ("non_finite", "non_finite_gradient", "loss_spike")
_SHUTDOWNS = ("SIGTERM", "SIGHUP")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobObservation:
    """What is seen of the job's current attempt."""

    alive: bool = False
    outcome: str | None = None  # finished, stopped or pruned, as rank 0 wrote it
    failures: tuple[Failure, ...] = ()
    unread_events: bool = False  # there are events to hand on, and it is time
    checkpoint_step: int | None = None
    stop_told: bool = False
    out_of_memory: str = ""  # what speaks for it that a worker was killed for its memory
    told: Told | None = None  # to end, by a signal
    unsaved: str = ""  # why the last save of an attempt that stopped did not come to be
    quiet_seconds: float = 0.0  # since the last step, once training has begun
    starting: bool = False  # it has not formed its process group yet
    stacks_asked: bool = False
    rebooted: bool = False  # the machine was started again since the launch
    skip: tuple[int, int, int] | None = None  # epoch, first and last batch that led to the trouble


@dataclass(frozen=True, slots=True)
class Told:
    """What told an attempt to end: the name of a signal, and to which rank."""

    cause: str
    rank: int

    def __str__(self) -> str:
        return self.cause if "worker" in self.cause or "request" in self.cause else f"{self.cause} to rank {self.rank}"


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
class AskForStacks:
    """Have stalled workers write down where they stand."""


@dataclass(frozen=True, slots=True)
class KillStalled:
    """Note where stalled workers stand, and end them."""


@dataclass(frozen=True, slots=True)
class RollBack:
    """Go back to the newest checkpoint, and pass over the batches that led to trouble."""

    failure: Failure
    from_step: int | None
    skip: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class End:
    """Close the job."""

    phase: str
    failure: Failure | None = None
    ending: str = ""


Action = Launch | Track | Collect | TellToStop | Kill | AskForStacks | KillStalled | Recover | RollBack | End


def next_action(job: TrainingJob, seen: JobObservation, now: datetime) -> Action | None:
    """Return the next action, or None when there is nothing to do yet."""
    if job.phase == "queued":
        return End("stopped", ending="as asked, before it began") if job.stop_requested_at else Launch(1)
    if job.phase == "restarting":
        if job.stop_requested_at:
            return End("stopped", ending="as asked, between two attempts")
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
        if now - job.stop_requested_at >= timedelta(seconds=job.grace_seconds) + KILL_MARGIN:
            return Kill()
    elif job.on_trouble["stall"] != "ignore" and seen.quiet_seconds >= _patience(job, seen):
        if not seen.stacks_asked:
            return AskForStacks()
        if seen.quiet_seconds >= _patience(job, seen) + STACKS_SECONDS:
            return KillStalled()
    if job.run_id is None:
        return Track()
    return Collect() if seen.unread_events else None


def _patience(job: TrainingJob, seen: JobObservation) -> float:
    return max(job.stall_seconds, STARTING_SECONDS) if seen.starting else job.stall_seconds


def _after_end(job: TrainingJob, seen: JobObservation) -> Action:
    if seen.outcome == "finished":
        return End("finished")
    if seen.outcome == "pruned":
        return End("pruned")
    for failure in seen.failures:
        if failure.kind in _FINAL_KINDS:
            return End("failed", failure)
        policy = job.on_trouble.get(failure.kind)
        if policy == "stop" or (policy is not None and job.stop_requested_at is None):
            return _on_trouble(job, seen, failure)
    if job.stop_requested_at is not None:
        return End("stopped", ending=f"as asked, {_saved(seen)}")
    if seen.told is not None:
        return _on_signal(job, seen, seen.told)
    if seen.outcome == "stopped":  # by a signal to a program whose signals are its own
        return Recover("it was told to end from outside", seen.checkpoint_step, 0.0, 0)
    if seen.rebooted:
        if job.resume == "never":
            return End("stopped", ending=f"the machine was started again, {_newest(seen)}")
        return Recover("the machine was started again", seen.checkpoint_step, 0.0, 0)
    return _after_crash(job, seen, _why(job, seen), kind="out_of_memory" if seen.out_of_memory else "crash")


def _on_signal(job: TrainingJob, seen: JobObservation, told: Told) -> Action:
    """A shutdown or an eviction interrupts a job, which goes on when it can; other signals are meant to stop it."""
    how = f"{told}, {_saved(seen)}"
    if job.resume == "auto" and told.cause.startswith(_SHUTDOWNS):
        return Recover(how, seen.checkpoint_step, 0.0, 0)
    return End("stopped", ending=how)


def _on_trouble(job: TrainingJob, seen: JobObservation, trouble: Failure) -> Action:
    if job.on_trouble[trouble.kind] == "stop":
        return End("failed", trouble)
    if trouble.kind not in _SKIPPING_KINDS:  # what is run again may go well this time
        return _after_crash(job, seen, trouble.message, kind=trouble.kind)
    if len(job.rollbacks) >= job.max_rollbacks or seen.skip is None:
        count = len(job.rollbacks)
        times = "once" if count == 1 else f"{count} times"
        again = f"; it had been rolled back {times} before" if count else ""
        return End("failed", replace(trouble, message=trouble.message + again))
    return RollBack(trouble, seen.checkpoint_step, seen.skip)


def _after_crash(job: TrainingJob, seen: JobObservation, why: str, *, kind: str) -> Action:
    progressed = seen.checkpoint_step is not None and seen.checkpoint_step > (job.checkpoint_step or -1)
    crashes = 1 if progressed else job.crashes_in_a_row + 1
    if crashes > job.max_restarts:
        times = f"{crashes} times in a row" if crashes > 1 else "once"
        return End("failed", Failure(kind=kind, message=f"the workers died {times} without a new checkpoint: {why}"))
    wait = 0.0 if crashes == 1 else min(_FIRST_WAIT_SECONDS * 2 ** (crashes - 2), _LAST_WAIT_SECONDS)
    return Recover(why, seen.checkpoint_step, wait, crashes)


def _saved(seen: JobObservation) -> str:
    """Say whether what stopped was saved at its last step."""
    unsaved = next((failure.message for failure in seen.failures if failure.kind == "unsaved"), "")
    if unsaved:
        return f"without a new checkpoint: {unsaved}; {_newest(seen)}"
    if seen.unsaved:
        return f"without a new checkpoint: {seen.unsaved}; {_newest(seen)}"
    if seen.outcome != "stopped":
        return f"without a new checkpoint: the workers were killed before they had one; {_newest(seen)}"
    step = seen.checkpoint_step
    return "before the first checkpoint" if step is None else f"checkpoint at step {step}"


def _newest(seen: JobObservation) -> str:
    step = seen.checkpoint_step
    return "there is no checkpoint" if step is None else f"the newest checkpoint is of step {step}"


def _why(job: TrainingJob, seen: JobObservation) -> str:
    if seen.out_of_memory:
        return f"a worker was killed, probably out of memory: {seen.out_of_memory}"
    crash = next((failure for failure in seen.failures if failure.kind == "crash"), None)
    if crash is not None:
        return crash.message
    if seen.failures:
        silent = set(range(job.processes)) - {failure.rank for failure in seen.failures}
        if len(silent) == 1 and job.nodes == 1:  # all others say that they lost it
            return f"rank {silent.pop()} died without a word, as after kill -9"
        return f"rank {seen.failures[0].rank} lost the others"
    return "a worker or its launcher was killed"
