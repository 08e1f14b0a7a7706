"""From a finished job to a registered model version: the package is built by a process of its own."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlcycle_nb import errors
from mlcycle_nb.context import Context
from mlcycle_nb.errors import EngineError
from mlcycle_nb.files import private_folder, write_atomically
from mlcycle_nb.training.hand_over import read_result
from mlcycle_nb.training.job_folder import JobFolder, read_document
from mlcycle_nb.training.records import TrainingJob

if TYPE_CHECKING:
    from mlcycle_nb.development.records import ModelVersion
    from mlcycle_nb.development.service import ModelDevelopmentManager

_PACKAGING_SECONDS = 600.0


def register_job(
    context: Context,
    development: ModelDevelopmentManager,
    job: TrainingJob,
    *,
    options: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> ModelVersion:
    """Package what a job trained and register it; repeating it gives the same version.

    Raises
    ------
    NotFound
        When the cell handed no model over.
    InvalidInput, Refused
        When the model cannot be packaged, with the reason.
    """
    from mlcycle_nb.packages import PackageStore

    folder = JobFolder(context.folder("training", "jobs") / job.id)
    read_result(folder.result)
    digest = _build(context, folder, options or {})
    package = PackageStore(context.folder("packages")).open(digest)
    return development.register_model(
        job.model, package, run_id=job.run_id, tags={"training.job": job.id, **dict(tags or {})}
    )


def _build(context: Context, folder: JobFolder, options: Mapping[str, Any]) -> str:
    spec = folder.read_spec()
    work = private_folder(private_folder(folder.path / "packaging") / str(time.time_ns()))
    request = {
        "result": str(folder.result),
        "packages": str(context.folder("packages")),
        "workspace_id": context.workspace_id,
        "sys_path": spec.sys_path,
        "options": dict(options),
    }
    write_atomically(work / "request.json", json.dumps(request))
    name, log = f"packaging-{spec.job}-{work.name}", work / "packaging.log"
    argv = [spec.python, "-m", "mlcycle_nb.training.packaging", str(work / "request.json")]
    context.processes.ensure(name, argv, log=log, env={"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + _PACKAGING_SECONDS
    while context.processes.get(name) is not None:
        if time.monotonic() > deadline:
            context.processes.stop(name)
            raise EngineError("packaging took too long", where=str(log))
        time.sleep(0.02)
    context.processes.stop(name, grace_seconds=0.0)
    answer = read_document(work / "package.json")
    if answer is None:
        raise EngineError("packaging ended without an answer", where=str(log))
    if "error" in answer:
        kind = getattr(errors, answer["error"], EngineError)
        raise kind(answer["problem"], where=f"job {spec.job}", remedy=answer["remedy"])
    shutil.rmtree(work)
    return str(answer["digest"])
