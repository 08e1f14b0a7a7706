"""The training service: submits cells, attaches to jobs, stops them, packages what they trained."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.context import Context
from mlcycle_nb.errors import Conflict, InvalidInput, NotFound, Refused, did_you_mean
from mlcycle_nb.files import write_atomically
from mlcycle_nb.training import carry
from mlcycle_nb.training.cell import Cell, read_cell, resolve
from mlcycle_nb.training.checkpoints import CheckpointRecord, CheckpointStore
from mlcycle_nb.training.events import EventReader
from mlcycle_nb.training.job_folder import JobFolder, JobSpec
from mlcycle_nb.training.launch import threads_for
from mlcycle_nb.training.progress import Progress, apply_in_order
from mlcycle_nb.training.records import TrainingJob
from mlcycle_nb.training.registration import register_job
from mlcycle_nb.training.submission import Param, TrainingOptions, check_model

if TYPE_CHECKING:
    from mlcycle_nb.development.records import ModelVersion
    from mlcycle_nb.development.service import ModelDevelopmentManager
    from mlcycle_nb.training.handle import TrainingHandle

_INSERT_TRIES = 20


class TrainingManager:
    """Trains models in worker processes that outlive the kernel.

    Parameters
    ----------
    context : Context
        The workspace.
    development : ModelDevelopmentManager
        Keeps the runs and registers the models.
    """

    def __init__(self, context: Context, development: ModelDevelopmentManager) -> None:
        self._context = context
        self._development = development

    # -- submit ----------------------------------------------------------------------------------------------

    def train_model(
        self,
        model: str,
        source: str,
        namespace: Mapping[str, Any] | None = None,
        *,
        processes: int = 1,
        epochs: int = 1,
        params: Mapping[str, Param] | None = None,
        seed: int = 0,
        device: str = "auto",
        mixed_precision: str = "no",
        gradient_accumulation: int = 1,
        checkpoint_every: str = "30s",
        keep_last: int = 2,
        keep_best: int = 1,
        max_restarts: int = 5,
        register: bool = False,
    ) -> TrainingHandle:
        """Run `source` in worker processes; attach when the same job is running already.

        Parameters
        ----------
        model : str
            Name of the model that is trained.
        source : str
            The cell: Python text that calls ``fit(...)`` or writes its own loop.
        namespace : mapping, optional
            Where the cell's free names are looked up; what it uses of it is carried to the workers.
        processes, epochs, params, seed
            Size of the process group, passes over the data, values for ``params``, and the seed of everything.
        device : {"auto", "cpu", "cuda"}
        mixed_precision : {"no", "bf16", "fp16"}
        gradient_accumulation : int
            Batches for one optimizer step.
        checkpoint_every : str
            ``"200"`` steps or ``"30s"``, besides one after each epoch.
        keep_last, keep_best : int
            Checkpoints that stay.
        max_restarts : int
            Crashes in a row that are recovered from.
        register : bool
            Package and register the model when the handle has been waited for.

        Returns
        -------
        TrainingHandle
            ``handle.attached`` tells whether the job was running already.

        Raises
        ------
        InvalidInput
            When the cell is empty or no Python, uses a missing name, or a name that cannot be carried; no job is made.
        """
        check_model(model)
        options = TrainingOptions(
            processes=processes,
            epochs=epochs,
            params=dict(params or {}),
            seed=seed,
            device=device,
            mixed_precision=mixed_precision,
            gradient_accumulation=gradient_accumulation,
            checkpoint_every=checkpoint_every,
            keep_last=keep_last,
            keep_best=keep_best,
            max_restarts=max_restarts,
        )
        cell = read_cell(source)
        names = resolve(cell, namespace or {})
        stream, buffers = carry.pack(names)
        data_digest = carry.digest(names)
        job = self._new_job(model, cell, data_digest, options, register)
        running = self._running(job)
        if running is not None:
            self._context.ensure_supervisor()  # it may have died, or never have started, since the job was made
            return self._handle(running.id, attached=True)
        submitted, attached = self._submit(job, cell, (stream, buffers), options)
        self._context.ensure_supervisor()
        return self._handle(submitted.id, attached=attached)

    def setup_distributed_training(self, processes: int, *, device: str = "auto") -> dict[str, Any]:
        """Return what a job of `processes` would get here: device, backend and threads of each process."""
        import torch

        gpus = torch.cuda.device_count()
        if device == "cuda" and gpus < processes:
            raise InvalidInput(f"{processes} processes need as many GPUs, torch sees {gpus}", value=processes)
        cuda = device != "cpu" and gpus >= processes
        return {
            "world_size": processes,
            "device": "cuda" if cuda else "cpu",
            "backend": "none" if processes == 1 else "nccl" if cuda else "gloo",
            "threads": threads_for(processes),
        }

    # -- read ------------------------------------------------------------------------------------------------

    def job(self, job: str) -> TrainingJob:
        """Return a job by its id, or the newest job of a model by the model's name."""
        found = self._context.store.maybe(TrainingJob, job)
        if found is not None:
            return found
        newest = self._context.store.find(TrainingJob, name=job, limit=1)
        if newest:
            return newest[0]
        known = [record.id for record in self._context.store.find(TrainingJob, limit=50)]
        listed = f"known: {', '.join(known[:10])}" if known else "there is none yet; %%train makes one"
        raise NotFound("there is no such training job", value=job, remedy=did_you_mean(job, known) + listed)

    def jobs(self, model: str | None = None) -> list[TrainingJob]:
        """Return jobs, newest first."""
        return self._context.store.find(TrainingJob, name=model)

    def attach(self, job: str) -> TrainingHandle:
        """Return the handle of a job, from any kernel."""
        return self._handle(self.job(job).id, attached=True)

    def progress(self, job: str) -> ProgressReader:
        """Return a reader of the job's progress."""
        return ProgressReader(self._folder(job))

    def checkpoints(self, job: str) -> list[CheckpointRecord]:
        """Return the committed checkpoints of a job, newest first."""
        return CheckpointStore(self._folder(self.job(job).id).checkpoints).records()

    def logs(self, job: str, *, rank: int | None = None, lines: int = 200) -> str:
        """Return the end of what the workers printed: at most `lines` lines and 64 KiB."""
        folder, record = self._folder(self.job(job).id), self.job(job)
        ranks = range(record.processes) if rank is None else [rank]
        if rank is not None and not 0 <= rank < record.processes:
            raise InvalidInput(f"the job has ranks 0 to {record.processes - 1}", value=rank)
        shown = []
        for number in ranks:
            text = _tail(folder.output_of(number), lines)
            if text:
                shown.append(text if len(ranks) == 1 else f"-- rank {number} --\n{text}")
        return "\n".join(shown)

    # -- act -------------------------------------------------------------------------------------------------

    def stop(self, job: str, *, reason: str = "") -> TrainingJob:
        """Ask a job to take a checkpoint and end."""
        record = self.job(job)
        if not record.active:
            raise Refused(f"job {record.id} has {record.phase} already")
        if record.stop_requested_at is not None:
            return record
        asked = replace(record, stop_requested_at=self._context.clock.now())
        for _ in range(_INSERT_TRIES):
            try:
                with self._context.store.transaction(actor=self._context.actor) as transaction:
                    asked = transaction.update(asked, event="training.stop_requested", reason=reason)
                break
            except Conflict:  # the supervisor wrote meanwhile
                record = self.job(record.id)
                if not record.active:
                    return record
                asked = replace(record, stop_requested_at=self._context.clock.now())
        self._context.ensure_supervisor()
        return asked

    def register(
        self,
        job: str | TrainingJob,
        *,
        feature_names: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
        task: str | None = None,
        format: str = "auto",
        tags: Mapping[str, str] | None = None,
    ) -> ModelVersion:
        """Package the model that a finished job trained, and register it as a new version.

        The package is built in a process of its own and is checked against the model before it is registered.

        Raises
        ------
        Refused
            When the job has not finished.
        NotFound
            When the cell handed no model over.
        """
        record = self.job(job if isinstance(job, str) else job.id)
        if record.phase != "finished":
            raise Refused(
                f"job {record.id} is {record.phase}, and only what finished is registered",
                remedy="wait for it" if record.active else f"%train logs {record.id}",
            )
        options = {"feature_names": feature_names, "class_names": class_names, "task": task, "format": format}
        version = register_job(self._context, self._development, record, options=options, tags=tags)
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            current = transaction.get(TrainingJob, record.id)
            detail = {"version": version.reference, "package": version.package_digest}
            registered = replace(current, registered=version.reference, registration_error="")
            transaction.update(registered, event="training.registered", detail=detail)
        return version

    # -- parts -----------------------------------------------------------------------------------------------

    def _folder(self, job: str) -> JobFolder:
        return JobFolder(self._context.folder("training", "jobs") / job)

    def _new_job(
        self, model: str, cell: Cell, data_digest: str, options: TrainingOptions, register: bool
    ) -> TrainingJob:
        return TrainingJob(
            id="",
            phase="queued",
            created_at=self._context.clock.now(),
            model=model,
            key=options.digest_with(model, cell.digest, data_digest),
            cell_digest=cell.digest,
            data_digest=data_digest,
            processes=options.processes,
            epochs=options.epochs,
            params=dict(options.params),
            seed=options.seed,
            max_restarts=options.max_restarts,
            register=register,
            experiment=self._experiment(model),
        )

    def _experiment(self, model: str) -> str:
        """Return the experiment that was selected in this kernel, else one of the model's name."""
        from mlcycle_nb.development.service import DEFAULT_EXPERIMENT

        selected = self._development.current_experiment
        return model if selected == DEFAULT_EXPERIMENT else selected

    def _running(self, job: TrainingJob) -> TrainingJob | None:
        active = self._context.store.find(TrainingJob, name=job.model, active=True)
        return next((other for other in active if other.lock_key == job.lock_key), None)

    def _submit(
        self, job: TrainingJob, cell: Cell, payload: tuple[bytes, list[memoryview]], options: TrainingOptions
    ) -> tuple[TrainingJob, bool]:
        """Write the job's folder, then its record: a record never names a folder that is not whole.

        Returns the job and whether it is one that another client submitted first.
        """
        jobs = self._context.folder("training", "jobs")
        origin = _provenance(cell, options, job.data_digest)
        for _ in range(_INSERT_TRIES):
            named = replace(job, id=self._free_id(jobs, job.model))
            folder = JobFolder(jobs / named.id)
            try:
                folder.path.mkdir(mode=0o700)
            except FileExistsError:  # another client took this number
                continue
            try:
                folder.make()
                carry.write(folder.payload, *payload)
                write_atomically(folder.cell, cell.source)
                folder.write_spec(self._spec(named, options))
                write_atomically(folder.provenance, origin)
                with self._context.store.transaction(actor=self._context.actor) as transaction:
                    detail = {"model": job.model, "cell": job.cell_digest, "data": job.data_digest}
                    return transaction.insert(named, event="training.submitted", detail=detail), False
            except BaseException as failure:
                shutil.rmtree(folder.path, ignore_errors=True)
                running = self._running(job) if isinstance(failure, Conflict) else None
                if running is None:
                    raise
                return running, True
        raise Conflict("many jobs of this model are submitted at once", value=job.model, remedy="run the cell again")

    @staticmethod
    def _free_id(jobs: Path, model: str) -> str:
        taken = [path.name.rpartition("-")[2] for path in jobs.glob(f"{model}-*")]
        return f"{model}-{1 + max((int(number) for number in taken if number.isdigit()), default=0)}"

    @staticmethod
    def _spec(job: TrainingJob, options: TrainingOptions) -> JobSpec:
        steps, seconds = options.checkpoint_steps_and_seconds()
        return JobSpec(
            job=job.id,
            model=job.model,
            processes=options.processes,
            epochs=options.epochs,
            params=dict(options.params),
            seed=options.seed,
            device=options.device,
            threads=threads_for(options.processes),
            mixed_precision=options.mixed_precision,
            gradient_accumulation=options.gradient_accumulation,
            checkpoint_every_steps=steps,
            checkpoint_every_seconds=seconds,
            keep_last=options.keep_last,
            keep_best=options.keep_best,
            python=sys.executable,
            cwd=os.getcwd(),
            sys_path=[path or os.getcwd() for path in sys.path],
        )

    def _handle(self, job: str, *, attached: bool) -> TrainingHandle:
        from mlcycle_nb.training.handle import TrainingHandle

        return TrainingHandle(self, job, attached=attached, sustain=self._context.revive_supervisor)


def _provenance(cell: Cell, options: TrainingOptions, data_digest: str) -> str:
    """Capture where the job comes from here: the supervisor, which starts the run, does not know the notebook."""
    from mlcycle_nb.development import provenance

    running, _ = provenance.session_cells()
    origin = provenance.capture(cell=None if running else cell.source, seeds={"training": options.seed})
    return replace(origin, data={"notebook": f"sha256:{data_digest}"}).to_json()


class ProgressReader:
    """Follows one job's events; each look reads only what is new."""

    def __init__(self, folder: JobFolder) -> None:
        self._reader = EventReader(folder.events)
        self._progress = Progress()

    def read(self) -> Progress:
        """Return the progress as of now."""
        apply_in_order(self._progress, list(self._reader.read()))
        return self._progress


def _tail(path: Path, lines: int, limit: int = 65_536) -> str:
    try:
        with path.open("rb") as source:
            size = source.seek(0, os.SEEK_END)
            source.seek(max(0, size - limit))
            text = source.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
