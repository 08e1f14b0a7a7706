"""The training jobs of trials: each has a folder of its own, made from the search's without copying its data."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from mlcycle_nb.context import Context
from mlcycle_nb.training.job_folder import JobFolder
from mlcycle_nb.training.records import TrainingJob
from mlcycle_nb.training.search.records import SearchTrial, TrainingSearch, trial_id

_SPEC = "job.json"


def search_folder(context: Context, search: str) -> JobFolder:
    """Return the folder of a search: what each of its jobs begins with."""
    return JobFolder(context.folder("training", "searches") / search)


def job_folder(context: Context, job: str) -> JobFolder:
    """Return the folder of a job."""
    return JobFolder(context.folder("training", "jobs") / job)


def job_name(trial: SearchTrial) -> str:
    """Return the id of the next job of a trial: ``digits-search-1-t7``, then ``digits-search-1-t7x2``."""
    again = f"x{trial.tries + 1}" if trial.tries else ""
    return trial_id(trial.search, trial.number) + again


def make_folder(context: Context, search: TrainingSearch, trial: SearchTrial, job: str) -> JobFolder:
    """Make the folder of a job that has no record yet, over what a crash may have left of it."""
    source, target = search_folder(context, search.id), job_folder(context, job)
    shutil.rmtree(target.path, ignore_errors=True)
    target.make()
    for file in source.path.rglob("*"):
        if file.is_file() and file.name != _SPEC:
            _link(file, target.path / file.relative_to(source.path))
    spec = source.read_spec()
    target.write_spec(replace(spec, job=job, params={**spec.params, **trial.params}))
    return target


def make_job(search: TrainingSearch, trial: SearchTrial, job: str, now: datetime) -> TrainingJob:
    """Return the record of a trial's job."""
    return TrainingJob(
        id=job,
        phase="queued",
        created_at=now,
        model=search.model,
        key=job,
        cell_digest=search.cell_digest,
        data_digest=search.data_digest,
        processes=search.processes,
        epochs=search.epochs,
        params={**search.params, **trial.params},
        seed=search.seed,
        max_restarts=search.max_restarts,
        max_rollbacks=search.max_rollbacks,
        on_trouble=dict(search.on_trouble),
        grace_seconds=search.grace_seconds,
        stall_seconds=search.stall_seconds,
        resume=search.resume,
        experiment=search.experiment,
        search=search.id,
        parent_run=search.run_id,
    )


def go_on(context: Context, job: TrainingJob) -> TrainingJob:
    """Return a stopped job as one that starts again from its newest checkpoint."""
    job_folder(context, job.id).stop_request.unlink(missing_ok=True)
    return replace(
        job,
        phase="restarting" if job.attempt else "queued",
        crashes_in_a_row=0,
        stop_requested_at=None,
        ended_at=None,
        next_attempt_at=None,
        failure=None,
    )


def drop_checkpoints(context: Context, job: str) -> None:
    """Remove the checkpoints of a trial that is over: what it trained lies in its result."""
    shutil.rmtree(job_folder(context, job).checkpoints, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.link(source, target)  # the data of a search is on the disk once, however many trials there are
    except OSError:
        shutil.copy2(source, target)
