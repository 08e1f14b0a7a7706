"""Running a finished job again from its folder: the same cell, payload, seed, threads and packages, as a new job."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from mlcycle_nb.context import Context
from mlcycle_nb.development.provenance import Provenance
from mlcycle_nb.development.reproduce.report import (
    VERDICT_TAG,
    Reproduction,
    compare_metrics,
    judge,
)
from mlcycle_nb.development.reproduce.surroundings import Surroundings, compare, surroundings
from mlcycle_nb.errors import Conflict, InvalidInput, NotFound, Refused
from mlcycle_nb.files import write_atomically
from mlcycle_nb.training.checkpoints import CheckpointStore
from mlcycle_nb.training.inputs import changed_inputs, copy_inputs, seal_inputs
from mlcycle_nb.training.job_folder import JobFolder
from mlcycle_nb.training.records import TrainingJob

if TYPE_CHECKING:
    from mlcycle_nb.development.records import MetricRow, Run
    from mlcycle_nb.development.service import ModelDevelopmentManager

_ASKED_FOR = (
    *("model", "cell_digest", "data_digest", "processes", "epochs", "params", "seed", "experiment", "script"),
    *("script_args", "max_restarts", "max_rollbacks", "on_trouble", "grace_seconds", "stall_seconds"),
    *("environment", "not_reproducible"),
)
_INSERT_TRIES = 20


class Reproductions:
    """Runs training jobs again.

    Parameters
    ----------
    context : Context
    development : ModelDevelopmentManager
    free_id : callable
        Returns the id of the next job of a model.
    """

    def __init__(self, context: Context, development: ModelDevelopmentManager, free_id: Callable[[str], str]) -> None:
        self._context = context
        self._development = development
        self._free_id = free_id

    def find(self, reference: str) -> TrainingJob | None:
        """Return the job that a job's id, a run's id or its name means; None for a run of no job.

        Raises
        ------
        NotFound
            When there is no such job or run.
        """
        if not isinstance(reference, str) or not reference:
            raise InvalidInput("name a run or a training job", value=reference, where="%reproduce")
        job = self._context.store.maybe(TrainingJob, reference)
        if job is not None:
            return job
        run = self._development.run(reference)
        return self._context.store.maybe(TrainingJob, run.tags["training.job"]) if "training.job" in run.tags else None

    def begin(self, source: TrainingJob, *, strict: bool = False) -> TrainingJob | Reproduction:
        """Submit a job that runs `source` again; one that does so already is returned.

        Returns
        -------
        TrainingJob or Reproduction
            The new job, or the verdict ``cannot`` with its reason.

        Raises
        ------
        Refused
            When the job has not finished, so that there is nothing to compare.
        """
        if source.phase != "finished" or source.run_id is None:
            remedy = "wait for it" if source.active else "run its cell again"
            raise Refused(f"job {source.id} is {source.phase}, and only what finished is run again", remedy=remedy)
        folder = self._folder(source.id)
        cannot = self._obstacle(source, folder)
        if cannot is not None:
            return cannot
        spec = folder.read_spec()
        around = surroundings(self._development.environments, self._development.provenance(source.run_id), spec.python)
        if strict and around.packages:
            why = f"--strict, and {len(around.packages)} packages differ"
            return replace(_told(source, around), verdict="cannot", why=why)
        begun = self._submit(source, folder, around)
        self._context.ensure_supervisor()
        return begun

    def report(self, job: TrainingJob) -> Reproduction:
        """Return what a job that runs another one again has shown so far."""
        source = self._source(job)
        around = self._around(job)
        told = replace(_told(source, around), run=job.run_id, job=job.id)
        if job.active or job.run_id is None:
            return told
        if job.phase != "finished":
            why = f"it {job.phase} this time" + (f": {job.failure}" if job.failure is not None else "")
            return self._noted(replace(told, verdict="cannot", why=why))
        metrics = compare_metrics(self._curves(source), self._curves(job))
        equal, weights = compare_weights(self._folder(source.id), self._folder(job.id))
        verdict, why = judge(metrics, equal)
        return self._noted(replace(told, verdict=verdict, why=why, metrics=metrics, weights=weights))

    # -- parts -------------------------------------------------------------------------------------------------

    def _folder(self, job: str) -> JobFolder:
        return JobFolder(self._context.folder("training", "jobs") / job)

    def _source(self, job: TrainingJob) -> TrainingJob:
        found = self.find(job.reproduces)
        if found is None:
            raise NotFound("the job that this one runs again is gone", value=job.reproduces)
        return found

    def _around(self, job: TrainingJob) -> Surroundings:
        before = self._development.provenance(job.reproduces)
        now = Provenance.from_json(self._folder(job.id).provenance.read_text())
        return compare(before, now, self._folder(job.id).read_spec().python, job.environment)

    def _obstacle(self, source: TrainingJob, folder: JobFolder) -> Reproduction | None:
        why = ""
        inputs: tuple[str, ...] = ()
        if not (folder.path / "job.json").exists():
            why = f"the folder of job {source.id} is gone, and with it what the cell used"
        elif inputs := tuple(changed_inputs(folder)):
            why = "its inputs have changed since it ran"
        if not why:
            return None
        return Reproduction(source=str(source.run_id), run=None, verdict="cannot", why=why, inputs=inputs)

    def _submit(self, source: TrainingJob, folder: JobFolder, around: Surroundings) -> TrainingJob:
        key = hashlib.sha256(f"reproduce {source.id} {around.environment}".encode()).hexdigest()[:32]
        again = TrainingJob(
            id="",
            phase="queued",
            created_at=self._context.clock.now(),
            key=key,
            reproduces=str(source.run_id),
            **{name: getattr(source, name) for name in _ASKED_FOR},
        )
        again = replace(again, environment=around.environment)
        active = self._context.store.find(TrainingJob, name=again.name, active=True)
        running = next((job for job in active if job.lock_key == again.lock_key), None)
        if running is not None:
            return running
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
                target.write_spec(replace(spec, job=named.id, python=around.python, trial=False))
                write_atomically(target.provenance, around.origin.to_json())
                seal_inputs(target)
                with self._context.store.transaction(actor=self._context.actor) as transaction:
                    detail = {"model": source.model, "reproduces": source.id}
                    return transaction.insert(named, event="training.submitted", detail=detail)
            except BaseException:
                shutil.rmtree(target.path, ignore_errors=True)
                raise
        raise Conflict("many jobs of this model are submitted at once", value=source.model, remedy="try again")

    def _curves(self, job: TrainingJob) -> dict[str, list[MetricRow]]:
        run: Run = self._development.run(str(job.run_id))
        return {name: self._development.tracking.metric_history(run.id, name) for name in run.metrics}

    def _noted(self, told: Reproduction) -> Reproduction:
        """Keep the verdict with the new run."""
        run = self._development.run(str(told.run))
        if run.tags.get(VERDICT_TAG) != told.verdict:
            self._development.tracking.log(run.id, tags={VERDICT_TAG: told.verdict})
        return told


def compare_weights(before: JobFolder, after: JobFolder) -> tuple[bool | None, str]:
    """Compare the newest checkpoints of two jobs, tensor by tensor; None when one of them has none."""
    stores = [CheckpointStore(folder.checkpoints) for folder in (before, after)]
    newest = [store.newest_verified().newest for store in stores]
    if newest[0] is None or newest[1] is None:
        return None, "no checkpoint was kept"
    if newest[0].step != newest[1].step:
        return False, f"the newest checkpoints are of steps {newest[0].step} and {newest[1].step}"
    old, new = (store.load(record)[0] for store, record in zip(stores, newest, strict=True) if record is not None)
    unequal = sorted(name for name in old.keys() | new.keys() if _content(old.get(name)) != _content(new.get(name)))
    if not unequal:
        return True, f"equal bit for bit ({len(old)} tensors at step {newest[0].step})"
    return False, f"{len(unequal)} of {len(old)} tensors differ, such as {unequal[0]}"


def _content(tensor: object) -> object:
    if tensor is None:
        return None
    import torch

    assert isinstance(tensor, torch.Tensor)
    plain = tensor.detach().cpu().contiguous()
    raw = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return str(plain.dtype), tuple(plain.shape), hashlib.sha256(raw).digest()


def _told(source: TrainingJob, around: Surroundings) -> Reproduction:
    return Reproduction(
        source=str(source.run_id),
        run=None,
        verdict="running",
        packages=around.packages,
        inputs=around.inputs,
        notes=around.notes,
    )
