"""Runs every gate on one subject. A check that raises is an error of that gate, and never of the others."""

from __future__ import annotations

import hashlib
import importlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.validation.contract import Check, checks
from mlcycle_nb.validation.decide import decide, failed_to_run
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.records import GateResult
from mlcycle_nb.validation.subject import Subject

CODE = (
    "mlcycle_nb.stats",
    "mlcycle_nb.validation.checks",
    "mlcycle_nb.validation.decide",
    "mlcycle_nb.validation.evaluate",
    "mlcycle_nb.validation.subject",
    "mlcycle_nb.validation.replica_timing",
)
"""What decides a verdict: a change in one of these voids the verdicts made with it."""


def run_gates(
    gates: Iterable[Gate], subject: Subject, *, progress: Callable[[int, str], None] = lambda index, name: None
) -> tuple[GateResult, ...]:
    """Return the result of each gate, in order."""
    results = []
    for index, gate in enumerate(gates):
        progress(index, gate.check)
        results.append(_run(gate, subject))
    return tuple(results)


def _run(gate: Gate, subject: Subject) -> GateResult:
    start = time.perf_counter()
    family = "unknown"
    try:
        check: Check = checks.load(gate.check)
        family = check.family
        found = check.measure(subject, gate)
        return decide(gate, check, found, seconds=time.perf_counter() - start)
    except MLCycleError as failure:
        problem = str(failure)
    except Exception as failure:  # a check is a plug-in and the model foreign code: either may raise anything
        problem = f"{type(failure).__name__}: {failure}"[:500]
    return failed_to_run(gate, family, problem, seconds=time.perf_counter() - start)


def code_digest(gates: Iterable[Gate]) -> str:
    """Return the digest of the code that decides: ours, and each plug-in from elsewhere that the gates use."""
    files: dict[str, bytes] = {}
    for dotted in CODE:
        location = Path(str(importlib.import_module(dotted).__file__))
        found = sorted(location.parent.glob("*.py")) if location.name == "__init__.py" else [location]
        files |= {f"{dotted}/{file.name}": file.read_bytes() for file in found}
    for name in sorted({gate.check for gate in gates}):
        module = importlib.import_module(type(checks.load(name)).__module__)
        if not module.__name__.startswith("mlcycle_nb.") and module.__file__:
            files[module.__name__] = Path(module.__file__).read_bytes()
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}|{len(content)}|".encode() + content)
    return "sha256:" + digest.hexdigest()
