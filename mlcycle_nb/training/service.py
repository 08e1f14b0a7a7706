"""The training service: submits cells, attaches to jobs, stops them, packages what they trained."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.context import Context
from mlcycle_nb.errors import Conflict, InvalidInput, NotFound, Refused, did_you_mean
from mlcycle_nb.files import write_atomically
from mlcycle_nb.training import carry, cell_sources
from mlcycle_nb.training.cell import Cell, read_cell, resolve
from mlcycle_nb.training.checkpoints import CheckpointRecord, CheckpointStore
from mlcycle_nb.training.environments import Runtime, runtime
from mlcycle_nb.training.follow import JobFollower, ProgressReader
from mlcycle_nb.training.inputs import seal_inputs
from mlcycle_nb.training.job_folder import JobFolder, JobSpec
from mlcycle_nb.training.launch import threads_for
from mlcycle_nb.training.logs import LOG_LINES, NewLines, printed
from mlcycle_nb.training.node_options import refuse_several
from mlcycle_nb.training.nodes import check_listening, join_command
from mlcycle_nb.training.records import TrainingJob
from mlcycle_nb.training.registration import register_job
from mlcycle_nb.training.resume import resumable, take_up
from mlcycle_nb.training.script import Script, find_script
from mlcycle_nb.training.submission import Param, TrainingOptions, check_model
from mlcycle_nb.training.trouble import check_policies

if TYPE_CHECKING:
    from mlcycle_nb.development.provenance import Provenance
    from mlcycle_nb.development.records import ModelVersion
    from mlcycle_nb.development.service import ModelDevelopmentManager
    from mlcycle_nb.training.dry_run_report import DryRun
    from mlcycle_nb.training.handle import TrainingHandle
    from mlcycle_nb.training.listing import JobList
    from mlcycle_nb.training.reproduce import Reproductions
    from mlcycle_nb.training.reproduce_handle import ReproductionHandle
    from mlcycle_nb.training.search.handle import SearchHandle
    from mlcycle_nb.training.search.records import TrainingSearch
    from mlcycle_nb.training.search.service import Searches

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
        grace: str = "30s",
        stall: str = "20m",
        on_trouble: Mapping[str, str] | None = None,
        max_rollbacks: int = 3,
        resume: str = "auto",
        environment: str = "",
        nodes: int = 1,
        rendezvous: str = "",
        join_timeout: str = "10m",
        register: bool = False,
        cell_number: int | None = None,
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
        grace, stall : str
            From being told to stop to the end with a checkpoint, and how long no step may come before the workers are
            killed and started again.
        on_trouble : mapping, optional
            Kind of trouble -> ``stop``, ``rollback`` or ``ignore``; see `trouble.DEFAULT_POLICIES`.
        max_rollbacks : int
            Roll-backs of the job; the next trouble stops it.
        resume : {"auto", "never"}
            ``auto``: a job that a shutdown ended goes on by itself, and one that was stopped goes on from its newest
            checkpoint when its cell is run again.
        environment : str
            Name of the isolated environment that the workers run in; the kernel's own by default.
        nodes, rendezvous, join_timeout
            Hosts that take part, each with `processes`; ``HOST:PORT`` of this one where they meet; and how long the
            others may take, at the start and after each recovery. See `join_commands`.
        register : bool
            Package and register the model when the handle has been waited for.
        cell_number : int, optional
            The ``In [n]`` that tracebacks call the cell by.

        Returns
        -------
        TrainingHandle
            ``handle.attached`` tells whether the job was running already, ``handle.resumed_from`` from which step a
            stopped one goes on.

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
            grace=grace,
            stall=stall,
            on_trouble=dict(on_trouble or {}),
            max_rollbacks=max_rollbacks,
            resume=resume,
            environment=environment,
            nodes=nodes,
            rendezvous=rendezvous,
            join_timeout=join_timeout,
        )
        cell = read_cell(source)
        names = resolve(cell, namespace or {})
        payload = carry.pack(names, lines=cell.free)
        job = self._new_job(model, cell, carry.digest(names), options, register)
        return self._start(job, cell, payload, options, cell_number=cell_number)

    def dry_run(
        self,
        model: str,
        source: str,
        namespace: Mapping[str, Any] | None = None,
        *,
        register: bool = False,
        cell_number: int | None = None,
        **options: Any,
    ) -> DryRun:
        """Try a cell: two batches in each of its processes, measured, and nothing kept - no job, run or file.

        The workers, the process group and what is carried are those of the real run; a loop that calls neither
        ``fit`` nor ``batches`` is ended at the second step of its optimizer, or the second ``log(...)``.

        Parameters
        ----------
        model, source, namespace, **options
            As in `train_model`.
        register : bool
            Accepted and left aside, so that a call can be tried by its name alone.

        Returns
        -------
        DryRun
            Speed, memory, checkpoint, time of the whole run, what is carried and what cannot be.

        Raises
        ------
        InvalidInput
            As `train_model`, except for names that cannot be carried, which the result lists.
        JobFailed
            When the cell raised, with its line and rank.
        """
        from mlcycle_nb.training.dry_run import rehearse

        check_model(model)
        chosen = TrainingOptions(**_known(options))
        cell = read_cell(source)
        names = resolve(cell, namespace or {})
        if chosen.nodes > 1:
            refuse_several("--dry-run")
        spec = self._spec(self._new_job(model, cell, "", chosen, False), chosen)
        return rehearse(self._context, cell, names, replace(spec, cell_number=cell_number))

    def train_script(
        self,
        model: str,
        script: str | Path | None = None,
        arguments: Sequence[str] = (),
        *,
        module: str | None = None,
        register: bool = False,
        **options: Any,
    ) -> TrainingHandle:
        """Run an unmodified training script, or a module, in worker processes; attach when it is running already.

        The script is read now and runs as it is now, however often it is started again. ``Accelerator()`` in it finds
        the process group of the job, and trackers named ``mlflow`` log to the job's run. After a crash it is started
        from its beginning: resuming is its own matter, unless it trains with what it imports from
        ``mlcycle_nb.training``.

        Parameters
        ----------
        model : str
            Name of the model that is trained.
        script : str or Path, optional
            A Python file.
        arguments : sequence of str
            What the script finds in ``sys.argv[1:]``.
        module : str, optional
            Dotted name of a module to run instead of a file.
        register : bool
            Package and register what it handed over with ``save_model``.
        **options
            As in `train_model`: ``processes``, ``device``, ``mixed_precision``, ``gradient_accumulation``,
            ``max_restarts``; and what scripts see that use our loops: ``params``, ``epochs``, ``seed`` and the others.

        Raises
        ------
        InvalidInput
            When the script is no Python, or an option is unknown; no job is made.
        NotFound
            When there is no such file or module.
        """
        check_model(model)
        chosen = TrainingOptions(**_known(options))
        found = find_script(script, module, arguments)
        program = Cell(found.source, {})
        job = self._new_job(model, program, found.call_digest, chosen, register)
        job = replace(job, script=found.name, script_args=found.argv)
        return self._start(job, program, carry.pack({}), chosen, script=found)

    def _start(
        self,
        job: TrainingJob,
        cell: Cell,
        payload: tuple[bytes, list[memoryview]],
        options: TrainingOptions,
        *,
        script: Script | None = None,
        cell_number: int | None = None,
    ) -> TrainingHandle:
        running = self._running(job)
        if running is not None:
            self._context.ensure_supervisor()  # it may have died, or never have started, since the job was made
            return self._handle(running.id, attached=True)
        stopped = resumable(self._context, job, self._folder) if options.resume == "auto" else None
        if stopped is not None:
            return self.resume(stopped)
        if options.nodes > 1:
            if script is not None or options.environment:
                refuse_several("--script" if script is not None else "--environment")
            check_listening(options.rendezvous)
        submitted, attached = self._submit(job, cell, payload, options, script, cell_number)
        self._context.ensure_supervisor()
        return self._handle(submitted.id, attached=attached)

    def join_commands(self, job: str) -> list[str]:
        """Return the line for each of the other hosts of a job, to be run in a terminal there; none for one host.

        The hosts share the workspace folder, under the same path, and reach the rendezvous.
        """
        record = self.job(job)
        home = self._context.home.absolute()
        return [join_command(home, record.id, record.rendezvous, rank) for rank in range(1, record.nodes)]

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

    def search(
        self,
        model: str,
        source: str,
        namespace: Mapping[str, Any] | None = None,
        *,
        space: Mapping[str, Any] | Sequence[str],
        cell_number: int | None = None,
        **options: Any,
    ) -> SearchHandle:
        """Train `source` with many hyperparameters, each as a job of its own; see `Searches.begin` for the options.

        The same cell, data, space and seed are searched once: giving them again attaches to the search, takes it up
        again when it was stopped or has failed, and goes on with it when more ``trials`` are asked for.

        Parameters
        ----------
        model, source, namespace
            As in `train_model`.
        space : mapping or sequence
            ``{"lr": "log:1e-4..1e-1", "hidden": [32, 64, 128]}``, or ``["lr=log:1e-4..1e-1", "hidden=32,64,128"]``.
        **options
            ``trials``, ``sampler``, ``pruner``, ``concurrent``, ``metric``, ``direction``, ``max_failures`` and
            ``register``; and of `train_model` ``processes``, ``epochs``, ``params``, ``seed`` and the others.
        """
        return self.searches.begin(model, source, namespace or {}, space=space, cell_number=cell_number, **options)

    def write_template(
        self,
        folder: JobFolder,
        search: TrainingSearch,
        cell: Cell,
        payload: tuple[bytes, list[memoryview]],
        options: TrainingOptions,
        cell_number: int | None = None,
    ) -> None:
        """Write the folder that each trial of a search begins with."""
        job = self._new_job(search.model, cell, search.data_digest, options, False)
        spec = replace(self._spec(replace(job, id=search.id), options), cell_number=cell_number, trial=True)
        spec = replace(spec, threads=threads_for(options.processes * search.concurrent))
        _fill(folder, spec, cell, payload, _provenance(cell, options, search.data_digest, None, self._runtime(options)))

    def reproduce(self, run: str, *, strict: bool = False) -> ReproductionHandle:
        """Run a run, or a training job, again from what was recorded of it, and compare what comes out bit for bit.

        A job runs again as a new job, from its own copy of the cell and of what the notebook had defined, with the
        same seed, processes and threads, in its recorded environment. Any other run runs again from its recorded
        cells; that call blocks until they are through.

        Parameters
        ----------
        run : str
            A run by its id, the first characters of it or its name; or a job by its id.
        strict : bool
            Whether packages that differ from the recorded ones make the verdict ``cannot``.

        Returns
        -------
        ReproductionHandle
            Its ``wait()`` gives the `Reproduction` with the verdict ``reproduced``, ``differs`` or ``cannot``.

        Raises
        ------
        NotFound
            When there is no such run or job.
        Refused
            When it has not finished.
        """
        from mlcycle_nb.training.reproduce_handle import begin

        return begin(self, run, strict=strict)

    @property
    def development(self) -> ModelDevelopmentManager:
        """What keeps the runs."""
        return self._development

    @property
    def reproductions(self) -> Reproductions:
        """Jobs that run other jobs again."""
        from mlcycle_nb.training.reproduce import Reproductions

        jobs = self._context.folder("training", "jobs")
        return Reproductions(self._context, self._development, lambda model: self._free_id(jobs, model))

    @property
    def searches(self) -> Searches:
        """The searches over hyperparameters."""
        from mlcycle_nb.training.search.service import Searches

        return Searches(self._context, self)

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
        """Return jobs, newest first; those of a search's trials only by the search's id."""
        found = self._context.store.find(TrainingJob, name=model)
        return [job for job in found if model is not None or not job.search]

    def overview(self, model: str | None = None) -> JobList:
        """Return jobs, newest first, as a table that says how far each is, how old, and its best metric."""
        from mlcycle_nb.training.listing import JobList, JobStanding

        standings = {}
        jobs = self.jobs(model)
        for job in jobs:
            seen = self._context.store.observed(TrainingJob, job.id)
            folder = self._folder(job.id).checkpoints
            scored = CheckpointStore(folder).best() if folder.is_dir() else []
            best = None if not scored or scored[0].metric is None else (str(seen.get("best", "")), scored[0].metric)
            step = int(seen.get("step", job.steps))
            standings[job.id] = JobStanding(step=step, total_steps=seen.get("total_steps"), best=best)
        return JobList(jobs, standings, self._context.clock.now())

    def attach(self, job: str) -> TrainingHandle:
        """Return the handle of a job, from any kernel."""
        return self._handle(self.job(job).id, attached=True)

    def progress(self, job: str) -> ProgressReader:
        """Return a reader of the job's progress."""
        return ProgressReader(self._folder(job))

    def checkpoints(self, job: str) -> list[CheckpointRecord]:
        """Return the committed checkpoints of a job, newest first."""
        return CheckpointStore(self._folder(self.job(job).id).checkpoints).records()

    def follow(self, job: str) -> JobFollower:
        """Return what follows a job from outside: progress, signs of life, checkpoints, printed lines."""
        return JobFollower(self._folder(self.job(job).id))

    def new_lines(self, job: str, *, rank: int | None = None) -> NewLines:
        """Return what reads the lines that the ranks print from now on."""
        record = self.job(job)
        return NewLines(self._folder(record.id), record.processes, rank=rank)

    def logs(self, job: str, *, rank: int | None = None, lines: int = LOG_LINES) -> str:
        """Return the end of what the workers printed, made plain: at most `lines` lines and 64 KiB of each rank.

        Raises
        ------
        InvalidInput
            When there is no such rank, or `lines` is no whole number from 1 to 10,000.
        """
        record = self.job(job)
        return printed(self._folder(record.id), record.processes, rank=rank, lines=lines)

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

    def resume(self, job: str) -> TrainingHandle:
        """Take up a job that was stopped or has failed, from its newest checkpoint; return its handle.

        Raises
        ------
        Refused
            When the job is running, or has finished.
        Conflict
            When the same cell is running already in another job.
        """
        record = self.job(job)
        known = self.checkpoints(record.id)
        resumed = take_up(self._context, record, self._folder(record.id), known[0].step if known else None)
        self._context.ensure_supervisor()
        return self._handle(resumed.id, attached=True, resumed_from=known[0].step if known else 0)

    def tend(self, job: str) -> None:
        """Bring back the supervisor of a job that is not over, should it have been killed."""
        if self.job(job).active:
            self._context.revive_supervisor()

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
            key=options.digest_with(model, cell.digest, data_digest + self._runtime(options).lock),
            environment=options.environment,
            cell_digest=cell.digest,
            data_digest=data_digest,
            processes=options.world_size,
            nodes=options.nodes,
            rendezvous=options.rendezvous,
            epochs=options.epochs,
            params=dict(options.params),
            seed=options.seed,
            max_restarts=options.max_restarts,
            max_rollbacks=options.max_rollbacks,
            on_trouble=check_policies(options.on_trouble),
            grace_seconds=options.grace_seconds(),
            stall_seconds=options.stall_seconds(),
            resume=options.resume,
            register=register,
            experiment=self.experiment(model),
        )

    def experiment(self, model: str) -> str:
        """Return the experiment that was selected in this kernel, else one of the model's name."""
        from mlcycle_nb.development.service import DEFAULT_EXPERIMENT

        selected = self._development.current_experiment
        return model if selected == DEFAULT_EXPERIMENT else selected

    def _running(self, job: TrainingJob) -> TrainingJob | None:
        active = self._context.store.find(TrainingJob, name=job.model, active=True)
        return next((other for other in active if other.lock_key == job.lock_key), None)

    def _submit(
        self,
        job: TrainingJob,
        cell: Cell,
        payload: tuple[bytes, list[memoryview]],
        options: TrainingOptions,
        script: Script | None = None,
        cell_number: int | None = None,
    ) -> tuple[TrainingJob, bool]:
        """Write the job's folder, then its record: a record never names a folder that is not whole.

        Returns the job and whether it is one that another client submitted first.
        """
        jobs = self._context.folder("training", "jobs")
        origin = _provenance(cell, options, job.data_digest, script, self._runtime(options))
        job = replace(job, not_reproducible=origin.not_reproducible)
        for _ in range(_INSERT_TRIES):
            named = replace(job, id=self._free_id(jobs, job.model))
            folder = JobFolder(jobs / named.id)
            try:
                folder.path.mkdir(mode=0o700)
            except FileExistsError:  # another client took this number
                continue
            try:
                spec = replace(self._spec(named, options), cell_number=cell_number)
                if script is not None:
                    spec = replace(spec, script_kind=script.kind, script=script.name)
                    spec = replace(spec, script_path=script.path, script_args=list(script.argv))
                _fill(folder, spec, cell, payload, origin)
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

    def _runtime(self, options: TrainingOptions) -> Runtime:
        return runtime(self._development.environments, options.environment)

    def _spec(self, job: TrainingJob, options: TrainingOptions) -> JobSpec:
        place = self._runtime(options)
        steps, seconds = options.checkpoint_steps_and_seconds()
        return JobSpec(
            job=job.id,
            model=job.model,
            processes=options.world_size,
            nodes=options.nodes,
            rendezvous=options.rendezvous,
            join_seconds=options.join_seconds(),
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
            grace_seconds=options.grace_seconds(),
            on_trouble=check_policies(options.on_trouble),
            python=place.python,
            cwd=os.getcwd(),
            sys_path=list(place.sys_path),
        )

    def _handle(self, job: str, *, attached: bool, resumed_from: int | None = None) -> TrainingHandle:
        from mlcycle_nb.training.handle import TrainingHandle

        sustain = self._context.revive_supervisor
        return TrainingHandle(self, job, attached=attached, resumed_from=resumed_from, sustain=sustain)


def _fill(
    folder: JobFolder, spec: JobSpec, cell: Cell, payload: tuple[bytes, list[memoryview]], origin: Provenance
) -> None:
    """Write everything that workers need into a folder."""
    folder.make()
    carry.write(folder.payload, *payload)
    cell_sources.write(folder.payload, payload[0])
    write_atomically(folder.cell, cell.source)
    folder.write_spec(spec)
    write_atomically(folder.provenance, origin.to_json())
    seal_inputs(folder)


def _known(options: Mapping[str, Any]) -> dict[str, Any]:
    known = {each.name for each in fields(TrainingOptions)}
    for name in sorted(set(options) - known):
        raise InvalidInput(f"unknown option {name!r}", remedy=did_you_mean(name, known))
    return dict(options)


def _provenance(
    cell: Cell, options: TrainingOptions, data_digest: str, script: Script | None, place: Runtime
) -> Provenance:
    """Capture where the job comes from here: the supervisor, which starts the run, does not know the notebook."""
    from mlcycle_nb.development import provenance

    running, _ = provenance.session_cells()
    verbatim = None if running and script is None else cell.source
    origin = provenance.capture(cell=verbatim, seeds={"training": options.seed}, needs=cell.free)
    name = "notebook" if script is None else "script_call"
    return place.mark(replace(origin, data={name: f"sha256:{data_digest}"}))
