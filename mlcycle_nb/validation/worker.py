"""The process that runs one validation: ``python -m mlcycle_nb.validation.worker --home FOLDER --id ID``.

It runs in a session of its own: the kernel may be interrupted or killed, the verdict is stored all the same. A package
that runs code when loaded is loaded here and never in the kernel.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlcycle_nb.context import Context, open_context
from mlcycle_nb.errors import Conflict, MLCycleError
from mlcycle_nb.packages import PackageStore, code_permit, load_runtime
from mlcycle_nb.settings import load_settings
from mlcycle_nb.store.keys import public_bytes, trusted_keys
from mlcycle_nb.validation import data as validation_data
from mlcycle_nb.validation.decide import failed_to_run
from mlcycle_nb.validation.evaluate import run_gates
from mlcycle_nb.validation.records import FINISHED, GateResult, Validation, verdict_of
from mlcycle_nb.validation.replica_timing import time_requests
from mlcycle_nb.validation.subject import Subject

if TYPE_CHECKING:
    from mlcycle_nb.packages.formats import Runtime

DATA_FOLDER = "data"
PACKAGES_FOLDER = "packages"


def main(arguments: list[str] | None = None) -> int:
    """Run one validation and store its verdict."""
    parser = argparse.ArgumentParser(prog="mlcycle_nb.validation.worker")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--id", required=True)
    parser.add_argument("--actor", default="")
    options = parser.parse_args(arguments)
    context = open_context(options.home, load_settings(options.home.parent / "mlcycle.toml"), actor=options.actor)
    try:
        run(context, options.id)
    except MLCycleError as failure:
        print(failure, file=sys.stderr, flush=True)
        return 1
    finally:
        context.store.close()
    return 0


def run(context: Context, validation_id: str) -> Validation:
    """Run the validation of this id and return its finished record."""
    record = context.store.get(Validation, validation_id)
    if record.finished:
        return record
    try:
        results = run_gates(record.gates, _subject(context, record), progress=_progress(context, record))
    except MLCycleError as failure:  # the package or the data cannot even be opened: nothing can be shown to be good
        return finish(context, record, _all_failed(record, str(failure)), problem=str(failure))
    return finish(context, record, results)


def finish(context: Context, record: Validation, results: tuple[GateResult, ...], *, problem: str = "") -> Validation:
    """Store the verdict; when another process was first, its verdict stands."""
    verdict = verdict_of(record.gates, results)
    done = replace(
        record, phase=FINISHED, outcome=verdict, results=results, problem=problem, finished_at=context.clock.now()
    )
    counts = {outcome.value: count for outcome, count in done.counts().items() if count}
    detail = {
        "reference": record.reference,
        "outcome": verdict.value,
        "gates": counts,
        "package": record.evidence.package,
    }
    try:
        with context.store.transaction(actor=context.actor) as transaction:
            return transaction.update(done, event="validation.finished", detail=detail, reason=problem)
    except Conflict:
        return context.store.get(Validation, record.id)


def ended_early(context: Context, record: Validation) -> Validation:
    """Store an error verdict for a validation whose process is gone."""
    problem = "the process of this validation ended before it had a verdict"
    return finish(context, record, _all_failed(record, problem), problem=problem)


def _all_failed(record: Validation, problem: str) -> tuple[GateResult, ...]:
    return tuple(failed_to_run(gate, "", problem) for gate in record.gates)


def _subject(context: Context, record: Validation) -> Subject:
    store = PackageStore(context.folder(PACKAGES_FOLDER))
    package = store.open(record.evidence.package)
    keys = [public_bytes(key).hex() for key in trusted_keys(context.workspace_id).values()]
    if package.format == "python":
        code_permit.grant()
    loaded: list[Runtime] = []

    def runtime() -> Runtime:
        if not loaded:
            loaded.append(load_runtime(package, trusted_keys=keys))
        return loaded[0]

    return Subject(
        package=package,
        registered_digest=record.evidence.package,
        data=validation_data.load(record.evidence.data, context.folder(DATA_FOLDER)),
        open_runtime=runtime,
        time_requests=lambda rows, count: time_requests(
            context,
            package,
            rows,
            count,
            name=f"validation-{record.id}-replica",
            model=record.model,
            version=record.model_version,
            trusted_keys=keys,
        ),
        verify_package=lambda: store.verify(package.digest),
        seed=record.seed,
    )


def _progress(context: Context, record: Validation) -> Callable[[int, str], None]:
    return lambda index, name: context.store.observe(Validation, record.id, gate=index, check=name)


if __name__ == "__main__":
    sys.exit(main())
