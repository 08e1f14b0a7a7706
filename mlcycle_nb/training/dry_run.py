"""A dry run, as the notebook sees it: real workers, two batches each, a report, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlcycle_nb.context import Context
from mlcycle_nb.errors import EngineError, InvalidInput, JobFailed
from mlcycle_nb.files import write_atomically
from mlcycle_nb.supervisor.identity import ProcessIdentity
from mlcycle_nb.training import carry, cell_sources
from mlcycle_nb.training.cell import Cell
from mlcycle_nb.training.dry_run_report import DryRun, summed_up
from mlcycle_nb.training.events import EventReader
from mlcycle_nb.training.failures import read_failures
from mlcycle_nb.training.job_folder import JobFolder, JobSpec, read_document
from mlcycle_nb.training.launch import plan_launch
from mlcycle_nb.training.output import tail

_LOOK_SECONDS = 0.05
_LAST_LINES = 20
_GRACE_SECONDS = 2.0


def rehearse(context: Context, cell: Cell, names: Mapping[str, Any], spec: JobSpec) -> DryRun:
    """Run two batches of a cell in each of its processes and say what was measured.

    Parameters
    ----------
    context : Context
        The workspace, whose disk the throw-away checkpoint is written to.
    cell : Cell
    names : mapping
        What the cell takes from the notebook.
    spec : JobSpec
        As of the real run.

    Raises
    ------
    JobFailed
        With the error of the cell, its line and the rank, as a real run has it.
    EngineError
        When the workers ended without a word.
    """
    sizes, refused = _weigh(names, cell.free)
    if refused:
        return DryRun(model=spec.model, epochs=spec.epochs, carried=sizes, cannot_carry=refused)
    with _throw_away_folder(context, spec) as (folder, name, planned):
        carry_payload = carry.pack(names, lines=cell.free)
        carry.write(folder.payload, *carry_payload)
        cell_sources.write(folder.payload, carry_payload[0])
        write_atomically(folder.cell, cell.source, durable=False)
        folder.write_spec(planned)
        plan = plan_launch(folder, planned, 1)
        began = time.monotonic()
        context.processes.ensure(name, plan.argv, env=plan.env, cwd=folder.path, log=folder.launcher_log)
        while context.processes.get(name) is not None:
            time.sleep(_LOOK_SECONDS)
        seconds = time.monotonic() - began
        outcome = read_document(folder.outcome_of(1))
        if outcome is None:
            _raise_what_happened(folder, planned)
        measured = summed_up(planned, list(EventReader(folder.events).read()))
        return replace(measured, carried=sizes, seconds=seconds)


def _weigh(names: Mapping[str, Any], lines: Mapping[str, int]) -> tuple[dict[str, int], dict[str, str]]:
    """Return the size in bytes of each name that can be carried, and the reason for each that cannot."""
    sizes: dict[str, int] = {}
    refused: dict[str, str] = {}
    for name, value in names.items():
        try:
            stream, buffers = carry.pack({name: value}, lines=lines)
            sizes[name] = len(stream) + sum(buffer.nbytes for buffer in buffers)
        except InvalidInput as reason:
            problem = reason.problem.removeprefix("cannot carry into the worker processes: ")
            remedy = reason.remedy.removesuffix("; no job was made")
            refused[name] = f"{problem} - {remedy}" if remedy else problem
    return sizes, refused


@contextmanager
def _throw_away_folder(context: Context, spec: JobSpec) -> Iterator[tuple[JobFolder, str, JobSpec]]:
    """Make a folder beside the real jobs, on the same disk; end its processes and remove it, whatever happens."""
    above = context.folder("training", "dry-runs")
    _sweep(above)
    name = f"dry-run-{uuid.uuid4().hex[:12]}"
    own = ProcessIdentity.of(os.getpid())
    assert own is not None  # this process lives
    folder = JobFolder(above / name)
    try:
        folder.make()
        write_atomically(_owner_of(folder.path), f"{own.pid} {own.started}", durable=False)
        yield folder, name, replace(spec, job=name, rehearsal=f"{own.pid} {own.started}")
    finally:
        context.processes.stop(name, grace_seconds=_GRACE_SECONDS)
        shutil.rmtree(folder.path, ignore_errors=True)


def _sweep(above: Path) -> None:
    """Remove what a killed notebook left of dry runs; their workers end with it."""
    for left in above.iterdir():
        try:
            pid, _, started = _owner_of(left).read_text().partition(" ")
            alive = ProcessIdentity(int(pid), started).alive()
        except FileNotFoundError:  # just being made, or killed in that instant: it is empty
            continue
        if not alive:
            shutil.rmtree(left, ignore_errors=True)


def _owner_of(folder: Path) -> Path:
    return folder / "owner"


def _raise_what_happened(folder: JobFolder, spec: JobSpec) -> None:
    failures = read_failures(folder, 1, spec.processes)
    if failures:
        first = failures[0]
        ranks = f" on {first.ranks}" if first.ranks else ""
        raise JobFailed(
            f"the dry run of {spec.model} failed{ranks}: {first.message}", where=first.place, traceback=first.traceback
        )
    said = [line for rank in range(spec.processes) for line in tail(folder.output_of(rank), _LAST_LINES)]
    said = said or tail(folder.launcher_log, _LAST_LINES)
    raise EngineError(
        "the workers of the dry run ended without a word: something killed them",
        where=f"last output: {' | '.join(said[-3:])}" if said else "",
        remedy="was the memory enough? dmesg tells whether the kernel killed them",
    )
