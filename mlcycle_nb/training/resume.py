"""Taking up a job again that was stopped or has failed: from its newest checkpoint, with the cell it had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mlcycle_nb.context import Context
from mlcycle_nb.errors import Refused
from mlcycle_nb.training.checkpoints import CheckpointStore
from mlcycle_nb.training.job_folder import JobFolder
from mlcycle_nb.training.records import Restart, TrainingJob


def take_up(context: Context, record: TrainingJob, folder: JobFolder, from_step: int | None) -> TrainingJob:
    """Have the supervisor launch the next attempt of a job that has ended without finishing.

    Raises
    ------
    Refused
        When the job goes on by itself, or has finished.
    """
    if record.active:
        raise Refused(f"job {record.id} is {record.phase} and needs no resuming", remedy=f"%train attach {record.id}")
    if record.search:
        remedy = f"%train search resume {record.search}"
        raise Refused(f"job {record.id} is a trial, which goes on with its search", remedy=remedy)
    if record.phase == "finished":
        raise Refused(f"job {record.id} has finished", remedy="run the cell again for a new job")
    folder.stop_request.unlink(missing_ok=True)
    now = context.clock.now()
    why = "it was stopped" if record.phase == "stopped" else "it had failed"
    restarts = record.restarts
    if record.attempt:
        restarts = (*restarts, Restart(attempt=record.attempt, at=now, why=f"{why}; resumed", from_step=from_step))
    again = replace(
        record,
        phase="restarting" if record.attempt else "queued",
        restarts=restarts,
        crashes_in_a_row=0,
        checkpoint_step=from_step,
        next_attempt_at=None,
        stop_requested_at=None,
        ended_at=None,
        failure=None,
        ending="",
    )
    with context.store.transaction(actor=context.actor) as transaction:
        return transaction.update(again, event="training.resumed", detail={"from_step": from_step})


def resumable(context: Context, job: TrainingJob, folder_of: Callable[[str], JobFolder]) -> str | None:
    """Return the newest job of the same cell, values and data when it was stopped and has a checkpoint, else None."""
    alike = (other for other in context.store.find(TrainingJob, name=job.model) if other.key == job.key)
    newest = next(alike, None)
    if newest is None or newest.phase != "stopped" or newest.script or newest.search:
        return None
    return newest.id if CheckpointStore(folder_of(newest.id).checkpoints).records() else None
