"""Running a run of the notebook itself again: its recorded cells, in a fresh process."""

from __future__ import annotations

import json
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.development.reproduce.report import VERDICT_TAG, Reproduction, compare_metrics, judge
from mlcycle_nb.development.reproduce.surroundings import Surroundings, surroundings
from mlcycle_nb.errors import Refused
from mlcycle_nb.files import private_folder, write_atomically

if TYPE_CHECKING:
    from mlcycle_nb.context import Context
    from mlcycle_nb.development.provenance import Provenance
    from mlcycle_nb.development.records import MetricRow, Run
    from mlcycle_nb.development.service import ModelDevelopmentManager

_POLL_SECONDS = 0.1


def reproduce(development: ModelDevelopmentManager, run: Run, *, strict: bool = False) -> Reproduction:
    """Run `run` again from its recorded cells and compare its metrics; blocks until they are through.

    An interrupt ends the process that runs the cells, and nothing is kept of it.

    Raises
    ------
    Refused
        When the run goes on.
    """
    if run.status == "running":
        raise Refused(f"run {run.id[:8]} goes on", remedy="wait for its end")
    origin = development.provenance(run.id)
    told = Reproduction(source=run.id, run=None, verdict="cannot")
    why = _obstacle(run, origin)
    if why:
        return _with(told, why=why)
    around = surroundings(development.environments, origin, sys.executable)
    told = _with(told, packages=around.packages, inputs=around.inputs, notes=around.notes)
    if strict and around.packages:
        return _with(told, why=f"--strict, and {len(around.packages)} packages differ")
    outcome = _replay(development.context, run, origin, around, development.cells_after(run.id))
    told = _with(told, notes=(*told.notes, *outcome.get("notes", ())))
    if "run" not in outcome:
        return _with(told, why=outcome["failure"])
    return _judged(development, run, str(outcome["run"]), origin, told)


def _obstacle(run: Run, origin: Provenance) -> str:
    if run.tags.get("training.job"):
        return "it is the run of a training job, which the training service runs again"
    if not origin.cell.strip():
        return "no cell was recorded of it: it was not started in a notebook"
    return ""


def _replay(
    context: Context, run: Run, origin: Provenance, around: Surroundings, cells_after: tuple[str, ...]
) -> dict[str, Any]:
    name = f"reproduce-{run.id[:12]}-{uuid.uuid4().hex[:6]}"
    folder = private_folder(context.folder("reproductions") / name)
    outcome = folder / "outcome.json"
    request = {
        "home": str(context.home),
        "scratch": str(folder / "scratch" / ".mlcycle"),
        "outcome": str(outcome),
        "source": run.id,
        "experiment": run.experiment,
        "name": f"{run.name}-again"[:250],
        "status": run.status,
        "cell": origin.cell,
        "cells_before": list(origin.cells_before),
        "cells_after": list(cells_after),
        "cells_failed": list(origin.cells_failed),
        "run_of_cell": origin.run_of_cell,
        "cwd": origin.cwd,
        "sys_path": [] if around.environment else list(origin.sys_path),
    }
    private_folder(folder / "scratch")
    write_atomically(folder / "request.json", json.dumps(request))
    argv = [around.python, "-m", "mlcycle_nb.development.reproduce.replay", str(folder / "request.json")]
    env = {"IPYTHONDIR": str(folder / "ipython"), "MLCYCLE_LIVE": "0"}
    context.processes.ensure(name, argv, log=folder / "replay.log", env=env)
    try:
        while context.processes.get(name) is not None:
            time.sleep(_POLL_SECONDS)
    finally:
        context.processes.stop(name, grace_seconds=1.0)
    if not outcome.exists():
        last = (folder / "replay.log").read_text(errors="replace").strip().splitlines()[-1:]
        return {"failure": f"the process that ran the cells ended: {last[0][:200] if last else 'it said nothing'}"}
    found = dict(json.loads(outcome.read_text()))
    _remove(folder)
    return found


def _judged(
    development: ModelDevelopmentManager, run: Run, again: str, origin: Provenance, told: Reproduction
) -> Reproduction:
    now = development.provenance(again)
    inputs = [f"data {name}" for name, digest in sorted(origin.data.items()) if now.data.get(name) != digest]
    metrics = compare_metrics(_curves(development, run.id), _curves(development, again))
    verdict, why = judge(metrics, None)
    development.tracking.log(again, tags={VERDICT_TAG: verdict})
    return _with(told, run=again, verdict=verdict, why=why, metrics=metrics, inputs=(*told.inputs, *inputs))


def _curves(development: ModelDevelopmentManager, run_id: str) -> dict[str, list[MetricRow]]:
    return {name: development.tracking.metric_history(run_id, name) for name in development.run(run_id).metrics}


def _with(told: Reproduction, **changes: Any) -> Reproduction:
    from dataclasses import replace

    return replace(told, **changes)


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
