"""A fresh process that runs a notebook's recorded cells again, in a workspace of its own that is thrown away.

``python -m mlcycle_nb.development.reproduce.replay REQUEST``. Whatever the cells do to the workspace, they do to the
scratch one; what the run logged is copied into the real one when the cells are through.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.development.reproduce.report import REPRODUCES_TAG
from mlcycle_nb.errors import MLCycleError, Refused, inert
from mlcycle_nb.files import write_atomically

if TYPE_CHECKING:
    from mlcycle_nb.development.service import ModelDevelopmentManager

_INSTALLS = re.compile(r"\s*[!%]{1,2}\s*(pip|conda|mamba|uv)\b")
_MESSAGE_LIMIT = 300


def main(arguments: Sequence[str]) -> int:
    """Run the cells of the request and write what became of them beside it."""
    request = json.loads(Path(arguments[0]).read_text())
    notes: list[str] = []
    scratch = Path(request["scratch"])
    try:
        outcome: dict[str, Any] = {"run": _replay(request, scratch, notes)}
    except MLCycleError as refused:
        outcome = {"failure": refused.problem}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    write_atomically(Path(request["outcome"]), json.dumps({**outcome, "notes": notes}))
    return 0


def _replay(request: dict[str, Any], scratch: Path, notes: list[str]) -> str:
    workspaces: Any = importlib.import_module("mlcycle_nb.workspace")  # by name: it stands above this stage
    real = workspaces.Workspace.open(request["home"])
    if os.path.isdir(request["cwd"]):
        os.chdir(request["cwd"])
    sys.path[:] = [*dict.fromkeys([*request["sys_path"], *sys.path])]
    # The cells may name a workspace by its path: here every name means the scratch one.
    workspaces.locate = lambda path=None: scratch
    os.environ["MLCYCLE_HOME"] = str(scratch)
    throwaway = workspaces.Workspace.open()
    try:
        before = _run_cells(request, throwaway.development, notes)
        found = [run for run in throwaway.development.runs(limit=1000) if run.id not in before]
        found.sort(key=lambda run: run.started_at)
        if len(found) <= request["run_of_cell"]:
            raise Refused(f"the cell started {len(found)} runs this time")
        return _take_over(real.development, throwaway.development, found[request["run_of_cell"]].id, request)
    finally:
        throwaway.down()
        throwaway.close()
        real.close()


def _run_cells(request: dict[str, Any], development: ModelDevelopmentManager, notes: list[str]) -> set[str]:
    """Run all cells; return the runs that were there before the one that started the run in question."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    failed = set(request["cells_failed"])
    for place, cell in enumerate(request["cells_before"]):
        if any(_INSTALLS.match(line) for line in cell.splitlines()):
            notes.append(f"In [{place + 1}] installs packages and was not run again")
            continue
        _run_cell(shell, cell, place + 1, may_fail=place in failed)
    before = {run.id for run in development.runs(limit=1000)}
    number = len(request["cells_before"]) + 1
    for cell in [request["cell"], *request["cells_after"]]:
        _run_cell(shell, cell, number, may_fail=request["status"] != "finished")
        number += 1
    return before


def _run_cell(shell: Any, cell: str, number: int, *, may_fail: bool) -> None:
    result = shell.run_cell(cell, store_history=True)
    error = result.error_before_exec or result.error_in_exec
    if error is not None and not may_fail:
        problem = error.problem if isinstance(error, MLCycleError) else str(error)
        text = inert(f"{type(error).__name__}: {problem}"[:_MESSAGE_LIMIT])
        raise Refused(f"In [{number}] raised {text}")


def _take_over(
    real: ModelDevelopmentManager, scratch: ModelDevelopmentManager, run_id: str, request: dict[str, Any]
) -> str:
    run, origin = scratch.run(run_id), scratch.provenance(run_id)
    again = real.start_run(
        request["experiment"],
        run_name=request["name"],
        tags={REPRODUCES_TAG: request["source"]},
        current=False,
        origin=origin,
    )
    again.log_hyperparameters(run.parameters)
    for name in run.metrics:
        again.log_metric_rows(scratch.tracking.metric_history(run_id, name))
    again.end("failed" if run.status == "failed" else "killed" if run.status == "killed" else "finished")
    return again.id


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
