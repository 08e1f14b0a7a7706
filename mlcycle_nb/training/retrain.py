"""Training again: a finished job's cell, names and parameters as a new job, because something asks for a new model."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlcycle_nb.context import Context
from mlcycle_nb.errors import Conflict, NotFound, Refused
from mlcycle_nb.files import write_atomically
from mlcycle_nb.training.inputs import changed_inputs, copy_inputs, seal_inputs
from mlcycle_nb.training.job_folder import JobFolder
from mlcycle_nb.training.records import TrainingJob

if TYPE_CHECKING:
    from mlcycle_nb.development.service import ModelDevelopmentManager

_ASKED_FOR = (
    *("model", "cell_digest", "data_digest", "processes", "epochs", "params", "seed", "experiment", "script"),
    *("script_args", "max_restarts", "max_rollbacks", "on_trouble", "grace_seconds", "stall_seconds", "resume"),
    *("environment", "not_reproducible"),
)
_INSERT_TRIES = 20


class Retrainings:
    """Trains models again from the record of the job that made them.

    What the notebook had defined then is carried over as it was; a cell that reads its data from a file, a table or
    a feature store reads what is there now.

    Parameters
    ----------
    context : Context
    development : ModelDevelopmentManager
        Knows the runs.
    """

    def __init__(self, context: Context, development: ModelDevelopmentManager) -> None:
        self._context = context
        self._development = development

    def begin(self, run: str, *, cause: str) -> TrainingJob:
        """Submit the job behind a run again.

        Parameters
        ----------
        run : str
            Id of the run.
        cause : str
            What asks for it, such as an alert's id. The same cause never gives a second job.

        Raises
        ------
        NotFound, Refused
            When the run is of no training job, its inputs are gone or were changed, it needs other hosts, or another
            job of the model is running.
        """
        source = self._source(run)
        key = hashlib.sha256(f"retrain {source.id} {cause}".encode()).hexdigest()[:32]
        jobs = self._context.store.find(TrainingJob, name=source.model)
        before = next((job for job in jobs if job.key == key), None)
        if before is not None:
            return before
        folder = self._folder(source.id)
        self._check(source, folder, jobs)
        return self._submit(source, folder, key, cause)

    def _source(self, run: str) -> TrainingJob:
        tags = self._development.run(run).tags
        job = self._context.store.maybe(TrainingJob, tags["training.job"]) if "training.job" in tags else None
        if job is None:
            raise NotFound("the run is of no training job, so it cannot be run again unattended", value=run)
        return job

    def _check(self, source: TrainingJob, folder: JobFolder, jobs: list[TrainingJob]) -> None:
        active = next((job for job in jobs if job.active), None)
        if active is not None:
            raise Refused(f"job {active.id} of {source.model} is {active.phase}", remedy="look at what it brings first")
        if source.nodes > 1:
            raise Refused(f"job {source.id} needs {source.nodes} hosts, which do not join by themselves")
        if not (folder.path / "job.json").exists():
            raise Refused(f"the folder of job {source.id} is gone, and with it what the cell used")
        changed = changed_inputs(folder)
        if changed:
            raise Refused(f"the inputs of job {source.id} have changed since it ran", value=", ".join(changed))
        python = folder.read_spec().python
        if not Path(python).exists():
            raise Refused("the interpreter that it ran in is gone", value=python, remedy="%environment rebuild")

    def _submit(self, source: TrainingJob, folder: JobFolder, key: str, cause: str) -> TrainingJob:
        fields = {name: getattr(source, name) for name in _ASKED_FOR}
        now = self._context.clock.now()
        again = TrainingJob(id="", phase="queued", created_at=now, key=key, **fields)
        spec = folder.read_spec()
        for _ in range(_INSERT_TRIES):
            named = replace(again, id=self._free_id(source.model))
            target = self._folder(named.id)
            try:
                target.path.mkdir(mode=0o700)
            except FileExistsError:
                continue
            try:
                target.make()
                copy_inputs(folder, target)
                target.write_spec(replace(spec, job=named.id, trial=False))
                write_atomically(target.provenance, folder.provenance.read_text())
                seal_inputs(target)
                with self._context.store.transaction(actor=self._context.actor) as transaction:
                    detail = {"model": source.model, "retrains": source.id, "cause": cause}
                    stored = transaction.insert(named, event="training.submitted", detail=detail)
            except BaseException:
                shutil.rmtree(target.path, ignore_errors=True)
                raise
            self._context.ensure_supervisor()
            return stored
        raise Conflict("many jobs of this model are submitted at once", value=source.model, remedy="try again")

    def _folder(self, job: str) -> JobFolder:
        return JobFolder(self._context.folder("training", "jobs") / job)

    def _free_id(self, model: str) -> str:
        from mlcycle_nb.training.service import TrainingManager

        return TrainingManager._free_id(self._context.folder("training", "jobs"), model)
