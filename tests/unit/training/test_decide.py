"""The next action of a training job, for each thing that can be seen."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mlcycle_nb.training.decide import (
    STOP_GRACE,
    Action,
    Collect,
    End,
    JobObservation,
    Kill,
    Launch,
    Recover,
    TellToStop,
    Track,
    next_action,
)
from mlcycle_nb.training.records import Failure, TrainingJob

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
JOB = TrainingJob(
    id="digits-1",
    phase="running",
    created_at=NOW,
    model="digits",
    key="k",
    cell_digest="c",
    data_digest="d",
    processes=2,
    epochs=3,
    params={},
    seed=0,
    attempt=1,
    run_id="r",
    max_restarts=2,
)
STOPPING = replace(JOB, stop_requested_at=NOW)
USER = Failure(kind="user", message="ValueError: no", rank=1)
PEER = Failure(kind="peer", message="gloo", rank=0)


@pytest.mark.parametrize(
    ("job", "seen", "action"),
    [
        (replace(JOB, phase="queued"), JobObservation(), Launch(1)),
        (replace(STOPPING, phase="queued"), JobObservation(), End("stopped")),
        (JOB, JobObservation(alive=True), None),
        (replace(JOB, run_id=None), JobObservation(alive=True, unread_events=True), Track()),
        (JOB, JobObservation(alive=True, unread_events=True), Collect()),
        (STOPPING, JobObservation(alive=True), TellToStop()),
        (STOPPING, JobObservation(alive=True, stop_told=True), None),
        (JOB, JobObservation(outcome="finished", unread_events=True), Collect()),
        (JOB, JobObservation(outcome="finished"), End("finished")),
        (STOPPING, JobObservation(outcome="stopped"), End("stopped")),
        (STOPPING, JobObservation(), End("stopped")),
        (JOB, JobObservation(failures=(PEER, USER)), End("failed", USER)),
        (replace(JOB, phase="restarting"), JobObservation(), Launch(2)),
        (replace(JOB, phase="restarting", next_attempt_at=NOW + timedelta(seconds=1)), JobObservation(), None),
        (replace(STOPPING, phase="restarting"), JobObservation(), End("stopped")),
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

    assert next_action(STOPPING, told, NOW + STOP_GRACE - timedelta(seconds=1)) is None
    assert next_action(STOPPING, told, NOW + STOP_GRACE) == Kill()


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
    action = next_action(replace(JOB, max_restarts=0), JobObservation(out_of_memory=True), NOW)

    assert isinstance(action, End)
    assert action.failure is not None
    assert action.failure.kind == "out_of_memory"
