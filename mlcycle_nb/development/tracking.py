"""The only module that talks to MLflow: experiments, runs, metrics, artifacts, the model registry.

It returns our records and raises our errors. It never loads a model: what is served comes from our package store.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from mlcycle_nb.development.mlflow_entities import (
    all_pages,
    to_milliseconds,
    to_moment,
    to_number,
    to_run,
    to_version,
    without_password,
)
from mlcycle_nb.development.mlflow_errors import translated
from mlcycle_nb.development.quiet_mlflow import client_class, hushed
from mlcycle_nb.development.records import (
    PACKAGE_TAG,
    MetricRow,
    ModelExperiment,
    ModelVersion,
    Run,
    RunStatus,
)
from mlcycle_nb.errors import Conflict, EngineError, NotFound
from mlcycle_nb.files import private_folder

METRICS_PER_BATCH = 1000
RUNS_PER_PAGE = 1000
PARAMETERS_PER_BATCH = 100
TAGS_PER_BATCH = 100
ROW_ATTEMPTS = 5


class Tracking:
    """MLflow, as one workspace uses it.

    Parameters
    ----------
    home : Path
        The workspace folder: MLflow's database and artifacts are there when `tracking_uri` is empty.
    tracking_uri : str
        A shared tracking server or database instead.
    """

    def __init__(self, home: Path, tracking_uri: str = "") -> None:
        self._home = home
        self._file = home / "mlflow.db"
        self.shared = bool(tracking_uri)
        self.uri = tracking_uri or f"sqlite:///{self._file}"
        self.place = without_password(self.uri)
        self._lock = threading.Lock()
        self._connected: Any = None
        self._experiment_names: dict[str, str] = {}

    # -- experiments -----------------------------------------------------------------------------------------

    def experiment(self, name: str) -> tuple[ModelExperiment, bool]:
        """Return the experiment `name` and whether it was made now."""
        with self._client() as client:
            found = client.get_experiment_by_name(name)
            made = found is None
            if found is None:
                client.create_experiment(name, artifact_location=self._artifact_location(name))
                found = client.get_experiment_by_name(name)
        self._experiment_names[found.experiment_id] = name
        return ModelExperiment(id=found.experiment_id, name=name, artifact_location=found.artifact_location), made

    def experiments(self) -> list[ModelExperiment]:
        """Return all experiments that have not been deleted, newest first."""
        with self._client() as client:
            found = all_pages(client.search_experiments)
        self._experiment_names.update({e.experiment_id: e.name for e in found})
        return [ModelExperiment(id=e.experiment_id, name=e.name, artifact_location=e.artifact_location) for e in found]

    # -- runs ------------------------------------------------------------------------------------------------

    def create_run(self, experiment: ModelExperiment, name: str | None, tags: Mapping[str, str], at: datetime) -> str:
        """Start a run and return its id."""
        with self._client() as client:
            run = client.create_run(experiment.id, start_time=to_milliseconds(at), tags=dict(tags), run_name=name)
        return str(run.info.run_id)

    def end_run(self, run_id: str, status: RunStatus, at: datetime) -> None:
        """Record that a run has ended."""
        with self._client() as client:
            client.set_terminated(run_id, status=status.upper(), end_time=to_milliseconds(at))

    def reopen_run(self, run_id: str) -> None:
        """Record that a run that had ended goes on."""
        with self._client() as client:
            client.update_run(run_id, status="RUNNING")

    def run(self, run_id: str) -> Run:
        """Return a run."""
        with self._client() as client:
            found = client.get_run(run_id)
            return self._run(client, found)

    def runs(self, experiments: Sequence[ModelExperiment], *, limit: int) -> list[Run]:
        """Return runs of some experiments, newest first."""
        with self._client() as client:
            found: list[Any] = []
            token, ids = None, [e.id for e in experiments]
            while ids and len(found) < limit:
                page = client.search_runs(ids, max_results=min(limit - len(found), RUNS_PER_PAGE), page_token=token)
                found.extend(page)
                token = page.token
                if not token:
                    break
            return [self._run(client, run) for run in found]

    def children(self, run_id: str) -> list[Run]:
        """Return the runs that say that this one is their parent, such as trials of a search; newest first."""
        with self._client() as client:
            ids = [e.experiment_id for e in all_pages(client.search_experiments)]
            told = f"tags.`mlflow.parentRunId` = '{run_id}'"
            found = client.search_runs(ids, filter_string=told) if ids else []
            return [self._run(client, run) for run in found]

    def delete_run(self, run_id: str) -> None:
        """Delete a run; MLflow keeps it restorable until ``mlflow gc``. One that is gone is deleted already."""
        with self._client() as client:
            if client.get_run(run_id).info.lifecycle_stage != "deleted":
                client.delete_run(run_id)

    def delete_version(self, name: str, number: int) -> None:
        """Delete a registered version; one that is gone is deleted already, and its number is not used again."""
        with self._client() as client:
            try:
                with translated(self.place):
                    client.delete_model_version(name, str(number))
            except NotFound:
                return

    def tagged(self, key: str, value: str) -> list[Run]:
        """Return the runs that have a tag of this value, newest first."""
        quoted = value.replace("'", "\\'")
        with self._client() as client:
            ids = [e.experiment_id for e in all_pages(client.search_experiments)]
            found = client.search_runs(ids, filter_string=f"tags.`{key}` = '{quoted}'") if ids else []
            return [self._run(client, run) for run in found]

    def log(
        self,
        run_id: str,
        *,
        metrics: Sequence[MetricRow] = (),
        parameters: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write metrics, parameters and tags in as few calls as MLflow's limits allow; the same row twice is one."""
        from mlflow.entities import Metric, Param, RunTag

        rows = [Metric(row.key, row.value, to_milliseconds(row.time), row.step) for row in metrics]
        params = [Param(key, value) for key, value in (parameters or {}).items()]
        marks = [RunTag(key, value) for key, value in (tags or {}).items()]
        with self._client() as client:
            while rows or params or marks:
                client.log_batch(
                    run_id,
                    metrics=rows[: METRICS_PER_BATCH - PARAMETERS_PER_BATCH - TAGS_PER_BATCH],
                    params=params[:PARAMETERS_PER_BATCH],
                    tags=marks[:TAGS_PER_BATCH],
                )
                rows = rows[METRICS_PER_BATCH - PARAMETERS_PER_BATCH - TAGS_PER_BATCH :]
                params, marks = params[PARAMETERS_PER_BATCH:], marks[TAGS_PER_BATCH:]

    def metric_history(self, run_id: str, key: str) -> list[MetricRow]:
        """Return all values of one metric, by step."""
        with self._client() as client:
            found = client.get_metric_history(run_id, key)
        rows = [MetricRow(key=m.key, value=to_number(m.value), step=m.step, time=to_moment(m.timestamp)) for m in found]
        return sorted(rows, key=lambda row: (row.step, row.time))

    # -- artifacts -------------------------------------------------------------------------------------------

    def log_path(self, run_id: str, path: Path, artifact_path: str | None) -> None:
        """Copy a file, or the files of a folder, into the run."""
        with self._client() as client:
            if path.is_dir():
                client.log_artifacts(run_id, str(path), artifact_path)
            else:
                client.log_artifact(run_id, str(path), artifact_path)

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        """Store text as a file of the run."""
        with self._client() as client:
            client.log_text(run_id, text, artifact_file)

    def read_text(self, run_id: str, artifact_file: str) -> str:
        """Return the text of a file of the run."""
        import tempfile

        with self._client() as client, tempfile.TemporaryDirectory(dir=private_folder(self._home / "tmp")) as folder:
            names = {item.path for item in client.list_artifacts(run_id, str(Path(artifact_file).parent).strip("."))}
            if artifact_file not in names:
                raise NotFound(f"run {run_id} has no {artifact_file}")
            return Path(client.download_artifacts(run_id, artifact_file, folder)).read_text()

    def artifact_files(self, run_id: str) -> list[str]:
        """Return the paths of all files of a run, sorted."""
        with self._client() as client:
            folders: list[str] = [""]
            files: list[str] = []
            while folders:
                for item in client.list_artifacts(run_id, folders.pop() or None):
                    (folders if item.is_dir else files).append(item.path)
        return sorted(files)

    # -- registry --------------------------------------------------------------------------------------------

    def create_version(self, name: str, source: str, run_id: str | None, tags: Mapping[str, str]) -> ModelVersion:
        """Register a version; the registry chooses its number."""
        with self._client() as client:
            try:
                with translated(self.place):
                    client.create_registered_model(name)
            except Conflict:
                pass  # the usual case: the model has versions already
            found = client.create_model_version(name, source, run_id, tags=dict(tags))
        return to_version(found)

    def version(self, name: str, number: int) -> ModelVersion | None:
        """Return one version, or None."""
        with self._client() as client:
            try:
                with translated(self.place):
                    return to_version(client.get_model_version(name, str(number)))
            except NotFound:
                return None

    def versions(self, name: str) -> list[ModelVersion]:
        """Return the versions of a model that carry one of our packages, oldest first."""
        with self._client() as client:
            found = all_pages(client.search_model_versions, filter_string=f"name = '{name}'")
        ours = [to_version(v) for v in found if (v.tags or {}).get(PACKAGE_TAG)]
        return sorted(ours, key=lambda version: version.version)

    def models(self) -> list[str]:
        """Return the names of all registered models, sorted."""
        with self._client() as client:
            return sorted(model.name for model in all_pages(client.search_registered_models))

    def aliases(self, name: str) -> dict[str, int]:
        """Return alias -> version of a model; empty when there is no such model."""
        with self._client() as client:
            try:
                with translated(self.place):
                    return {alias: int(number) for alias, number in client.get_registered_model(name).aliases.items()}
            except NotFound:
                return {}

    def set_alias(self, name: str, alias: str, number: int) -> None:
        """Point an alias at a version."""
        self._write_row(lambda client: client.set_registered_model_alias(name, alias, str(number)))

    def remove_alias(self, name: str, alias: str) -> None:
        """Remove an alias; one that is not there is removed already."""
        with self._client() as client:
            client.delete_registered_model_alias(name, alias)

    def tag_version(self, name: str, number: int, key: str, value: str) -> None:
        """Set a tag of a version."""
        self._write_row(lambda client: client.set_model_version_tag(name, str(number), key, value))

    # -- parts -----------------------------------------------------------------------------------------------

    def _write_row(self, write: Callable[[Any], None]) -> None:
        """Write one row of the registry; MLflow looks for it first and fails where another makes it in between."""
        for attempt in range(1, ROW_ATTEMPTS + 1):
            try:
                with self._client() as client:
                    write(client)
                return
            except Conflict:
                if attempt == ROW_ATTEMPTS:
                    raise

    @contextmanager
    def _client(self) -> Iterator[Any]:
        if self._connected is None:
            with self._lock:
                if self._connected is None:
                    self._connected = self._connect()
        with translated(self.place):
            yield self._connected

    def _connect(self) -> Any:
        client_type = client_class()
        with FileLock(self._home / "mlflow.lock", mode=0o600), hushed(), translated(self.place):
            # Several processes that make MLflow's tables, or its first experiment, at once crash one another.
            if not self.shared and not self._file.exists():
                _make_database(self._file)
            if not self.shared:
                _refuse_unreadable(self._file)
            client = client_type(tracking_uri=self.uri, registry_uri=self.uri)
            client.search_experiments(max_results=1)
            client.search_registered_models(max_results=1)
        return client

    def _artifact_location(self, experiment: str) -> str | None:
        if urlsplit(self.uri).scheme in {"http", "https", "databricks"}:
            return None  # the server decides
        return (private_folder(self._home / "mlartifacts") / experiment).as_uri()

    def _run(self, client: Any, run: Any) -> Run:
        experiment_id = run.info.experiment_id
        if experiment_id not in self._experiment_names:
            self._experiment_names[experiment_id] = client.get_experiment(experiment_id).name
        return to_run(run, self._experiment_names[experiment_id])


def _refuse_unreadable(path: Path) -> None:
    """Fail at once where MLflow would try for minutes to open what is no database."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.Error as failure:
        raise EngineError(f"MLflow's database cannot be used: {failure}", where=str(path)) from failure


def _make_database(path: Path) -> None:
    """Make MLflow's tables in a file beside and rename it: a crash in between leaves no half-made database."""
    from mlflow.store.db import utils

    staged = path.with_name(f".{path.name}.new")
    staged.unlink(missing_ok=True)
    os.close(os.open(staged, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    engine = utils.create_sqlalchemy_engine_with_retry(f"sqlite:///{staged}")
    try:
        utils._initialize_tables(engine)
    finally:
        engine.dispose()
    os.replace(staged, path)
