"""The next action of a training job, for each thing that can be seen."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from mlcycle_nb.training.decide import (
    KILL_MARGIN,
    STACKS_SECONDS,
    STARTING_SECONDS,
    Action,
    AskForStacks,
    Collect,
    End,
    JobObservation,
    Kill,
    KillStalled,
    Launch,
    Recover,
    RollBack,
    TellToStop,
    Told,
    Track,
    next_action,
)
from mlcycle_nb.training.records import Failure, Rollback, TrainingJob
from tests.builders import NOW, training_job

JOB = training_job(processes=2, epochs=3, attempt=1, run_id="r", max_restarts=2)
STOPPING = replace(JOB, stop_requested_at=NOW)
USER = Failure(kind="user", message="ValueError: no", rank=1)
KILLED = "the workers were killed before they had one"
NEWEST = "the newest checkpoint is of step {}"
PEER = Failure(kind="peer", message="gloo", rank=0)


@pytest.mark.parametrize(
    ("job", "seen", "action"),
    [
        (replace(JOB, phase="queued"), JobObservation(), Launch(1)),
        (replace(STOPPING, phase="queued"), JobObservation(), End("stopped", ending="as asked, before it began")),
        (JOB, JobObservation(alive=True), None),
        (replace(JOB, run_id=None), JobObservation(alive=True, unread_events=True), Track()),
        (JOB, JobObservation(alive=True, unread_events=True), Collect()),
        (STOPPING, JobObservation(alive=True), TellToStop()),
        (STOPPING, JobObservation(alive=True, stop_told=True), None),
        (JOB, JobObservation(outcome="finished", unread_events=True), Collect()),
        (JOB, JobObservation(outcome="finished"), End("finished")),
        (
            STOPPING,
            JobObservation(outcome="stopped", checkpoint_step=7),
            End("stopped", ending="as asked, checkpoint at step 7"),
        ),
        (
            STOPPING,
            JobObservation(outcome="stopped"),
            End("stopped", ending="as asked, before the first checkpoint"),
        ),
        (
            STOPPING,
            JobObservation(outcome="stopped", checkpoint_step=4, unsaved="No space left on device"),
            End("stopped", ending="as asked, without a new checkpoint: No space left on device; " + NEWEST.format(4)),
        ),
        (
            STOPPING,
            JobObservation(),
            End("stopped", ending=f"as asked, without a new checkpoint: {KILLED}; there is no checkpoint"),
        ),
        (JOB, JobObservation(failures=(PEER, USER)), End("failed", USER)),
        (replace(JOB, phase="restarting"), JobObservation(), Launch(2)),
        (replace(JOB, phase="restarting", next_attempt_at=NOW + timedelta(seconds=1)), JobObservation(), None),
        (
            replace(STOPPING, phase="restarting"),
            JobObservation(),
            End("stopped", ending="as asked, between two attempts"),
        ),
        (replace(JOB, phase="finished"), JobObservation(outcome="finished"), None),
    ],
)
def test_next_action(job: TrainingJob, seen: JobObservation, action: Action | None) -> None:
    """One row a situation."""
    assert next_action(job, seen, NOW) == action


@pytest.mark.parametrize("kind", ["user", "non_finite", "out_of_memory", "disk"])
def test_what_would_fail_again_is_not_tried_again(kind: str) -> None:
    """An error of the code, the numbers, the memory or the disk ends the job, whichever rank had it."""
    failure = Failure(kind=kind, message="x", rank=1)

    assert next_action(JOB, JobObservation(failures=(PEER, failure)), NOW) == End("failed", failure)


def test_a_stop_that_is_not_answered_becomes_a_kill() -> None:
    """Only after the grace."""
    told = JobObservation(alive=True, stop_told=True)

    patient = replace(STOPPING, grace_seconds=7.0)
    end = NOW + timedelta(seconds=7) + KILL_MARGIN

    assert next_action(patient, told, end - timedelta(seconds=1)) is None
    assert next_action(patient, told, end) == Kill()


def test_a_signal_from_outside_is_recovered_from_without_blame() -> None:
    """A worker that saved and ended because the machine told it to is started again, at once."""
    action = next_action(JOB, JobObservation(outcome="stopped", checkpoint_step=8), NOW)

    assert action == Recover("it was told to end from outside", 8, 0.0, 0)


def test_crashes_in_a_row_wait_longer_and_end() -> None:
    """The count grows while no new checkpoint appears, and starts again with one."""
    job, waits = JOB, []
    for _ in range(2):
        action = next_action(job, JobObservation(checkpoint_step=5), NOW)
        assert isinstance(action, Recover)
        waits.append(action.wait_seconds)
        job = replace(job, checkpoint_step=5, crashes_in_a_row=action.crashes_in_a_row)

    ended = next_action(job, JobObservation(checkpoint_step=5), NOW)
    onward = next_action(job, JobObservation(checkpoint_step=9), NOW)

    assert waits == [0.0, 0.5]
    assert isinstance(ended, End)
    assert ended.failure is not None
    assert "died 3 times in a row" in ended.failure.message
    assert isinstance(onward, Recover)
    assert onward.crashes_in_a_row == 1


def test_memory_is_named() -> None:
    """A kill by the kernel for memory is called that."""
    action = next_action(replace(JOB, max_restarts=0), JobObservation(out_of_memory="evidence"), NOW)

    assert isinstance(action, End)
    assert action.failure is not None
    assert action.failure.kind == "out_of_memory"
    assert "probably out of memory: evidence" in action.failure.message


SAVED = JobObservation(outcome="stopped", checkpoint_step=9)
SIGTERM, SIGUSR1 = Told("SIGTERM", 1), Told("SIGUSR1", 0)


class TestSignals:
    """A shutdown interrupts a job; the signals that people send stop it."""

    @pytest.mark.parametrize(
        ("resume", "told", "action"),
        [
            ("auto", SIGTERM, Recover("SIGTERM to rank 1, checkpoint at step 9", 9, 0.0, 0)),
            ("never", SIGTERM, End("stopped", ending="SIGTERM to rank 1, checkpoint at step 9")),
            ("auto", SIGUSR1, End("stopped", ending="SIGUSR1 to rank 0, checkpoint at step 9")),
            (
                "auto",
                Told("SIGTERM to a data worker", 0),
                Recover("SIGTERM to a data worker, checkpoint at step 9", 9, 0.0, 0),
            ),
        ],
    )
    def test_with_a_checkpoint(self, resume: str, told: Told, action: Action) -> None:
        """What told it is said, and where it can go on."""
        assert next_action(replace(JOB, resume=resume), replace(SAVED, told=told), NOW) == action

    def test_without_one(self) -> None:
        """It says that it could not, and why."""
        unsaved = Failure(kind="unsaved", message="it stood in step 10", rank=0)
        seen = JobObservation(told=SIGUSR1, failures=(PEER, unsaved), checkpoint_step=4)
        ending = "SIGUSR1 to rank 0, without a new checkpoint: it stood in step 10; " + NEWEST.format(4)

        assert next_action(JOB, seen, NOW) == End("stopped", ending=ending)

    def test_a_machine_that_was_started_again(self) -> None:
        """It is no crash of the job."""
        seen = JobObservation(rebooted=True, checkpoint_step=4)
        never = next_action(replace(JOB, resume="never"), seen, NOW)

        assert next_action(JOB, seen, NOW) == Recover("the machine was started again", 4, 0.0, 0)
        assert never == End("stopped", ending="the machine was started again, " + NEWEST.format(4))


class TestTrouble:
    """Each kind is handled as the job says."""

    @pytest.mark.parametrize("kind", ["non_finite", "non_finite_gradient", "loss_spike"])
    def test_roll_back(self, kind: str) -> None:
        """Up to the limit; the next one ends the job, and says how often it was tried."""
        failure = Failure(kind=kind, message="the loss became nan", rank=1)
        job = replace(JOB, on_trouble={**JOB.on_trouble, kind: "rollback"}, max_rollbacks=1)
        seen = JobObservation(failures=(PEER, failure), checkpoint_step=6, skip=(0, 3, 5))
        back = Rollback(attempt=1, at=NOW, kind=kind, why="", from_step=6, epoch=0, first_batch=3, last_batch=5)
        ended = next_action(replace(job, rollbacks=(back,)), seen, NOW)

        assert next_action(job, seen, NOW) == RollBack(failure, 6, (0, 3, 5))
        assert isinstance(ended, End)
        assert ended.failure is not None
        assert ended.failure.message == "the loss became nan; it had been rolled back once before"
        assert isinstance(next_action(replace(job, stop_requested_at=NOW), seen, NOW), End)

    def test_out_of_memory_is_not_retried_forever(self) -> None:
        """Rolled back, it counts as a crash."""
        failure = Failure(kind="out_of_memory", message="out of memory: 4 GB", rank=0)
        job = replace(JOB, on_trouble={**JOB.on_trouble, "out_of_memory": "rollback"}, max_restarts=1)
        seen = JobObservation(failures=(failure,))
        ended = next_action(replace(job, crashes_in_a_row=1), seen, NOW)

        assert next_action(job, seen, NOW) == Recover("out of memory: 4 GB", None, 0.0, 1)
        assert isinstance(ended, End)
        assert ended.failure is not None
        assert ended.failure.kind == "out_of_memory"

    def test_a_stall(self) -> None:
        """First its stacks, then its end; a job that is stopping, or whose stalls are ignored, is let be."""
        job = replace(JOB, stall_seconds=60.0)
        quiet = JobObservation(alive=True, quiet_seconds=60.0)
        asked = replace(quiet, stacks_asked=True)
        over = replace(asked, quiet_seconds=60.0 + STACKS_SECONDS)

        assert next_action(job, replace(quiet, quiet_seconds=59.9), NOW) is None
        assert next_action(job, quiet, NOW) == AskForStacks()
        assert next_action(job, replace(over, starting=True), NOW) is None
        assert next_action(job, replace(over, starting=True, quiet_seconds=STARTING_SECONDS + 3), NOW) == KillStalled()
        assert next_action(job, asked, NOW) is None
        assert next_action(job, over, NOW) == KillStalled()
        assert next_action(replace(job, on_trouble={**job.on_trouble, "stall": "ignore"}), over, NOW) is None
        assert next_action(replace(job, stop_requested_at=NOW), replace(over, stop_told=True), NOW) is None

    def test_after_a_stall(self) -> None:
        """It counts as a crash, or ends the job."""
        failure = Failure(kind="stall", message="no step for 1m", rank=1)
        seen = JobObservation(failures=(failure,), checkpoint_step=3, told=SIGTERM)
        stop = replace(JOB, on_trouble={**JOB.on_trouble, "stall": "stop"})

        assert next_action(JOB, seen, NOW) == Recover("no step for 1m", 3, 0.0, 1)
        assert next_action(stop, seen, NOW) == End("failed", failure)


@pytest.mark.parametrize(
    ("job", "failures", "told"),
    [
        (JOB, (PEER,), "rank 1 died without a word, as after kill -9"),
        (JOB, (PEER, replace(PEER, rank=1)), "rank 0 lost the others"),
        (replace(JOB, processes=3), (PEER,), "rank 0 lost the others"),
        (replace(JOB, nodes=2), (PEER,), "rank 0 lost the others"),
        (JOB, (), "a worker or its launcher was killed"),
    ],
)
def test_which_rank_died(job: TrainingJob, failures: tuple[Failure, ...], told: str) -> None:
    """The one of which nothing was heard, where all others of this host lost it."""
    action = next_action(job, JobObservation(failures=failures), NOW)

    assert isinstance(action, Recover)
    assert action.why == told
