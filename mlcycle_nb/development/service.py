"""The development stage: experiments, runs with provenance, model versions and aliases."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.context import Context
from mlcycle_nb.development.active_run import ActiveRun
from mlcycle_nb.development.compare import RunComparison
from mlcycle_nb.development.records import MetricRow, ModelExperiment, ModelVersion, Run, ending_status, run_subject
from mlcycle_nb.development.registry import Registry
from mlcycle_nb.development.team import TeamVerbs
from mlcycle_nb.development.tracking import Tracking
from mlcycle_nb.development.values import read_rows
from mlcycle_nb.errors import IntegrityError, InvalidInput, NotFound, Refused
from mlcycle_nb.references import ModelReference, check_name
from mlcycle_nb.store.deletion import Deletion

if TYPE_CHECKING:
    from mlcycle_nb.development.environments.service import Environments
    from mlcycle_nb.development.knowledge import StageKnowledge
    from mlcycle_nb.development.provenance import Provenance
    from mlcycle_nb.development.reproduce.report import Reproduction
    from mlcycle_nb.packages import Package

DEFAULT_EXPERIMENT = "default"
RUNS_SEARCHED = 10_000
"""Newest runs that a filter or an order looks at."""


class ModelDevelopmentManager(TeamVerbs):
    """Experiments, runs and the model registry of one workspace.

    Parameters
    ----------
    context : Context
    learn : callable, optional
        Tells what the later stages know; without it nothing is deleted and no model card is made.
    """

    def __init__(self, context: Context, learn: Callable[[], StageKnowledge] | None = None) -> None:
        self.context = context
        self._learn = learn
        self.current_experiment = DEFAULT_EXPERIMENT
        self._open: list[ActiveRun] = []

    @cached_property
    def tracking(self) -> Tracking:
        """MLflow; nothing of it is imported before it is first used."""
        return Tracking(self.context.home, self.context.settings.workspace.tracking_uri)

    @cached_property
    def _registry(self) -> Registry:
        return Registry(self.context, self.tracking)

    @cached_property
    def environments(self) -> Environments:
        """Isolated environments."""
        from mlcycle_nb.development.environments.service import Environments
        from mlcycle_nb.development.environments.users import users

        return Environments(self.context, lambda name: users(self.context, self.tracking, name))

    # -- experiments -----------------------------------------------------------------------------------------

    def create_experiment(self, name: str) -> ModelExperiment:
        """Select the experiment `name` for the runs that follow in this kernel, making it when there is none."""
        experiment, made = self.tracking.experiment(check_name(name, "experiment name"))
        if made:
            self._note("experiment.created", f"experiment:{name}", {"location": experiment.artifact_location})
        self.current_experiment = name
        return experiment

    def experiments(self) -> list[ModelExperiment]:
        """Return all experiments, newest first."""
        return self.tracking.experiments()

    # -- runs ------------------------------------------------------------------------------------------------

    def start_run(
        self,
        experiment: str | None = None,
        *,
        run_name: str | None = None,
        cell: str | None = None,
        data: Mapping[str, Any] | None = None,
        seeds: Mapping[str, int] | None = None,
        tags: Mapping[str, str] | None = None,
        current: bool = True,
        origin: Provenance | None = None,
    ) -> ActiveRun:
        """Start a run and record where it comes from.

        Parameters
        ----------
        experiment : str, optional
            The selected one by default.
        run_name : str, optional
            A name for people; MLflow makes one up by default.
        cell : str, optional
            Verbatim cell; the one that runs now by default.
        data : mapping, optional
            Name -> data the run uses (arrays, tensors, data frames, paths), recorded by digest.
        seeds : mapping, optional
            Name -> seed.
        tags : mapping, optional
            Further tags of the run.
        current : bool
            Whether `log_metrics` and its kin without ``run_id`` go to this run.
        origin : Provenance, optional
            Where the run comes from, when that was captured in another process; captured now by default.

        Returns
        -------
        ActiveRun
            Use it as a context manager, or call its ``end()``.
        """
        from mlcycle_nb.development import provenance

        name = check_name(experiment or self.current_experiment, "experiment name")
        origin = origin or provenance.capture(cell=cell, data=data, seeds=seeds)
        chosen, made = self.tracking.experiment(name)
        if made:
            self._note("experiment.created", f"experiment:{name}", {"location": chosen.artifact_location})
        marks = {**(tags or {}), **origin.tags(), "mlcycle.workspace": self.context.workspace_id}
        run_id = self.tracking.create_run(chosen, run_name, marks, self.context.clock.now())
        self.tracking.log_text(run_id, origin.to_json(), provenance.ARTIFACT)
        self._note("run.started", f"run:{run_id}", {"experiment": name, "provenance": origin.digest})
        run = ActiveRun(self, run_id, origin)
        if current:
            self._open.append(run)
        return run

    def end_run(self, run_id: str, status: str = "finished") -> Run:
        """End a run: ``finished``, ``failed`` or ``killed``; one that has ended already stays as it is."""
        ended = ending_status(status)
        for run in [r for r in self._open if r.id == run_id]:
            self._keep_later_cells(run)
            run.flush()
            run.ended = True
            self._open.remove(run)
        if self.tracking.run(run_id).status == "running":
            self.tracking.end_run(run_id, ended, self.context.clock.now())
            self._note("run.ended", f"run:{run_id}", {"status": ended})
        return self.tracking.run(run_id)

    def reopen_run(self, run_id: str) -> None:
        """Have a run that has ended go on; one that goes on already stays as it is."""
        if self.tracking.run(run_id).status != "running":
            self.tracking.reopen_run(run_id)
            self._note("run.reopened", f"run:{run_id}", {})

    def run(self, run_id: str) -> Run:
        """Return a run by its id, or by the first characters of it when they fit only one recent run."""
        self._flush()
        gone = self.context.store.maybe(Deletion, run_subject(run_id))
        if gone is not None:
            raise NotFound(f"run {run_id[:8]} {gone.told()}", value=run_id)
        if len(run_id) == 32:
            return self.tracking.run(run_id)
        fitting = [run for run in self.runs(limit=1000) if run.id.startswith(run_id) or run.name == run_id]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise InvalidInput(f"{len(fitting)} runs are called so", value=run_id, remedy="use the id")
        known = ", ".join(run.id[:8] for run in self.runs(limit=5)) or "none yet"
        raise NotFound("there is no run of this id", value=run_id, remedy=f"newest: {known}")

    def runs(
        self,
        experiment: str | None = None,
        *,
        limit: int = 50,
        where: str | None = None,
        sort: str | None = None,
        ascending: bool = False,
    ) -> list[Run]:
        """Return runs, newest first unless sorted; of all experiments by default.

        Parameters
        ----------
        limit : int
            How many at most, after filtering and sorting.
        where : str, optional
            Such as ``metrics.val_accuracy > 0.9 and params.lr = 0.1``; also ``tags.``, ``status``, ``name``,
            ``experiment`` and ``seconds``.
        sort : str, optional
            Such as ``metrics.val_accuracy``: the greatest first, unless `ascending`; runs without it come last.

        Raises
        ------
        InvalidInput
            When `where` or `sort` cannot be read, or names what none of the runs has.
        """
        from mlcycle_nb.development import run_filter

        self._flush()
        conditions = () if where is None else run_filter.parse_where(where)
        field = None if sort is None else run_filter.parse_field(sort, where="--sort")
        known = self.tracking.experiments()
        if experiment is not None:
            chosen = [e for e in known if e.name == check_name(experiment, "experiment name")]
            if not chosen:
                listed = ", ".join(e.name for e in known)
                raise NotFound("there is no experiment of this name", value=experiment, remedy=f"known: {listed}")
            known = chosen
        if not conditions and field is None:
            return self.tracking.runs(known, limit=limit)
        found = self.tracking.runs(known, limit=RUNS_SEARCHED)
        run_filter.refuse_unheard_of([one.field for one in conditions], found, where="--where")
        if field is not None:
            run_filter.refuse_unheard_of([field], found, where="--sort")
        kept = [run for run in found if all(condition.holds(run) for condition in conditions)]
        return (kept if field is None else run_filter.ordered(kept, field, ascending=ascending))[:limit]

    def compare(self, run_ids: Sequence[str]) -> RunComparison:
        """Return two or more runs beside each other, with the curves of their metrics and what they came from.

        Parameters
        ----------
        run_ids : sequence of str
            Ids of runs, the first characters of them, names; or versions such as ``digits/3``, which stand for the
            runs that made them.

        Raises
        ------
        InvalidInput
            When they are not two different runs at least, or a version was registered without a run.
        """
        from mlcycle_nb.development.diffs import OriginComparison

        named = [self._run_of(one) for one in run_ids] if len(set(run_ids)) > 1 else []
        found = tuple({run.id: run for run, _ in named}.values())
        if len(found) < 2:
            raise InvalidInput("a comparison needs two different runs", value=list(run_ids))
        curves = {(run.id, key): self.tracking.metric_history(run.id, key) for run in found for key in run.metrics}
        comparison = RunComparison(found, curves, {run.id: name for run, name in named if name})
        origin = OriginComparison(tuple(comparison.labels().values()), tuple(self._origin(run) for run in found))
        return replace(comparison, origin=origin)

    def provenance(self, run_id: str) -> Provenance:
        """Return where a run came from, read back from its artifacts and checked against its tags."""
        from mlcycle_nb.development import provenance

        run = self.run(run_id)
        found = provenance.Provenance.from_json(self.tracking.read_text(run.id, provenance.ARTIFACT))
        if found.digest != run.tags.get("mlcycle.provenance"):
            raise IntegrityError(f"{provenance.ARTIFACT} of run {run.id[:8]} differs from what was recorded")
        return found

    def reproduce(self, run_id: str, *, strict: bool = False) -> Reproduction:
        """Run a run again from its recorded cells, in a fresh process, and compare its metrics bit for bit.

        Runs of training jobs are run again by `TrainingManager.reproduce`, which takes any run.
        """
        from mlcycle_nb.development.reproduce.plain import reproduce

        return reproduce(self, self.run(run_id), strict=strict)

    def cells_after(self, run_id: str) -> tuple[str, ...]:
        """Return the cells that ran between the one that started a run and the one that ended it, that one included."""
        from mlcycle_nb.development import provenance

        try:
            text = self.tracking.read_text(self.run(run_id).id, provenance.CELLS_AFTER)
        except NotFound:
            return ()
        return tuple(json.loads(text))

    # -- logging to the current run, or to one by id ---------------------------------------------------------

    def log_model_config(self, config: Mapping[str, Any], *, run_id: str | None = None) -> None:
        """Record how the model is built."""
        self._writer(run_id).log_model_config(config)

    def log_hyperparameters(self, parameters: Mapping[str, Any], *, run_id: str | None = None) -> None:
        """Record hyperparameters; nested ones as ``outer.inner``."""
        self._writer(run_id).log_hyperparameters(parameters)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None, *, run_id: str | None = None) -> None:
        """Record metrics at `step`."""
        writer = self._writer(run_id)
        writer.log_metrics(metrics, step)
        if writer not in self._open:
            writer.flush()

    def log_metric_batch(self, run_id: str, rows: Iterable[MetricRow | Mapping[str, Any]]) -> None:
        """Write many values of metrics at once; a row that was written before is not doubled.

        Parameters
        ----------
        run_id : str
        rows : iterable
            `MetricRow`, or mappings with ``key``, ``value``, ``step`` and ``time`` (aware datetime).
        """
        self.tracking.log(run_id, metrics=read_rows(rows, now=self.context.clock.now()))

    def log_artifacts(
        self,
        source: str | Path | Mapping[str, Any],
        artifact_path: str | None = None,
        *,
        run_id: str | None = None,
    ) -> None:
        """Record a file, a folder, or ``{"name.json": value}``."""
        self._writer(run_id).log_artifacts(source, artifact_path)

    # -- model versions --------------------------------------------------------------------------------------

    def register_model(
        self, name: str, package: Package, *, run_id: str | None = None, tags: Mapping[str, str] | None = None
    ) -> ModelVersion:
        """Register a package as the next version of a model.

        Parameters
        ----------
        name : str
        package : Package
            Built into the workspace's package store.
        run_id : str, optional
            The run it came from. The same run and package give the same version again.
        tags : mapping, optional
            Text tags of the version.
        """
        return self._registry.register(name, package, run_id=run_id, tags=tags or {})

    def register_estimator(
        self,
        name: str,
        estimator: Any,
        *,
        reference: Any,
        labels: Any = None,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        **options: Any,
    ) -> ModelVersion:
        """Package an estimator or module that this kernel holds, and register it as the next version.

        Parameters
        ----------
        name : str
        estimator : scikit-learn estimator or torch.nn.Module
            What `mlcycle_nb.packages.build_package` takes.
        reference : array_like or DataFrame, shape (n, n_features)
            The rows it learned from: later requests are compared with them. Columns of a frame name the features.
        labels : array_like, shape (n,), optional
            True labels of `reference`.
        **options
            More of `build_package`, such as ``class_names`` or ``task``.
        """
        from mlcycle_nb.packages import PackageStore, build_package

        names = [str(column) for column in reference.columns] if hasattr(reference, "columns") else None
        package = build_package(
            estimator,
            example=reference[:64],
            reference=reference,
            reference_labels=labels,
            feature_names=options.pop("feature_names", names),
            out=PackageStore(self.context.folder("packages")),
            **options,
        )
        return self.register_model(name, package, run_id=run_id, tags=tags)

    def get_version(self, ref: str | ModelReference) -> ModelVersion:
        """Return the version that ``digits/7``, ``digits@champion``, or the name of a one-version model means."""
        return self._registry.get(ref if isinstance(ref, ModelReference) else ModelReference.parse(ref))

    def versions(self, name: str) -> list[ModelVersion]:
        """Return the versions of a model, newest first."""
        return self._registry.known.versions(name)

    def models(self) -> list[str]:
        """Return the names of all models, sorted."""
        return self._registry.known.models()

    def aliases(self, name: str) -> dict[str, int]:
        """Return alias -> version of a model."""
        return self._registry.known.aliases(check_name(name, "model name"))

    def set_alias(self, name: str, alias: str, version: int, *, reason: str = "") -> ModelVersion:
        """Point an alias such as ``champion`` at a version."""
        return self._registry.set_alias(name, alias, version, reason=reason)

    def remove_alias(self, name: str, alias: str, *, reason: str = "") -> None:
        """Remove an alias; one that is not there is removed already."""
        self._registry.remove_alias(name, alias, reason=reason)

    def tag_version(self, ref: str, key: str, value: str) -> ModelVersion:
        """Set a tag of a version, here and in MLflow's registry."""
        version = self.get_version(ref)
        return self._registry.tag(version.name, version.version, key, value)

    # -- parts -----------------------------------------------------------------------------------------------

    def _run_of(self, target: str) -> tuple[Run, str]:
        """Return a run, and what it is called when it was named by the version that it made."""
        if "/" not in target and "@" not in target:
            return self.run(target), ""
        version = self.get_version(target)
        if version.run_id is None:
            raise InvalidInput(
                f"{version.reference} was registered without a run", value=target, remedy="register with run_id=..."
            )
        return self.run(version.run_id), version.reference

    def _origin(self, run: Run) -> Provenance | None:
        try:
            return self.provenance(run.id)
        except (NotFound, IntegrityError):
            return None  # not recorded, or damaged: the comparison says so instead of failing

    def _writer(self, run_id: str | None) -> ActiveRun:
        from mlcycle_nb.development.provenance import Provenance

        if run_id is not None:
            return next((run for run in self._open if run.id == run_id), ActiveRun(self, run_id, Provenance()))
        if not self._open:
            raise Refused("no run is active", remedy="with workspace.development.start_run(): ...")
        return self._open[-1]

    def _keep_later_cells(self, run: ActiveRun) -> None:
        """Keep the cells that a run went through after the one that started it, and what they mean for it."""
        from mlcycle_nb.development import provenance

        after, reasons = provenance.later_cells(run.provenance)
        if not after:
            return
        self.tracking.log_text(run.id, json.dumps(after), provenance.CELLS_AFTER)
        if reasons:
            self.tracking.log(run.id, tags=replace(run.provenance, not_reproducible=reasons).reproducible_tags())

    def _flush(self) -> None:
        for run in self._open:
            run.flush()

    def _note(self, event: str, subject: str, detail: Mapping[str, Any]) -> None:
        with self.context.store.transaction(actor=self.context.actor) as transaction:
            transaction.note(event, subject=subject, detail=detail)
