"""What the ranks of an attempt left behind when they failed, as the job's record tells it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.training.job_folder import JobFolder, read_document
from mlcycle_nb.training.records import Failure

TRACEBACK_LIMIT = 8000
_ECHOES = {"non_finite_gradient": 1, "peer": 2}
"""What may only be an effect of another rank: its NaN loss reaches all gradients, its end all connections."""

_TAKEN = ("kind", "message", "rank", "line", "source")
_OF_LATER_VERSIONS = ("file", "traceback")


def read_failures(folder: JobFolder, attempt: int, processes: int) -> tuple[Failure, ...]:
    """Return what the ranks of an attempt reported: errors of their own before echoes of others', the first one first.

    The first of them carries the traceback, and the number of other ranks with an error of their own.
    """
    found: list[tuple[int, float, Failure]] = []
    for rank in range(processes):
        try:
            document = read_document(folder.error_of(attempt, rank))
        except (ValueError, MLCycleError):
            continue
        if document is None:
            continue
        failure = Failure(
            **{name: document[name] for name in _TAKEN},
            **{name: document.get(name, "") for name in _OF_LATER_VERSIONS},
        )
        found.append((_ECHOES.get(failure.kind, 0), float(document.get("time", 0.0)), failure))
    found.sort(key=lambda entry: entry[:2])
    return _summed_up([failure for _, _, failure in found])


def read_skip(folder: JobFolder, attempt: int, processes: int) -> tuple[int, int, int] | None:
    """Return epoch, first and last batch that led to trouble, of the rank that had it first; None when none had."""
    found = []
    for rank in range(processes):
        try:
            document = read_document(folder.error_of(attempt, rank))
        except (ValueError, MLCycleError):
            continue
        if document is not None and document.get("skip"):
            epoch, first, last = document["skip"]
            found.append((int(epoch), int(first), int(last)))
    return min(found, default=None)


def _summed_up(failures: Sequence[Failure]) -> tuple[Failure, ...]:
    if not failures:
        return ()
    first, *others = failures
    own = sum(failure.kind != "peer" for failure in others)
    first = replace(first, traceback=first.traceback[-TRACEBACK_LIMIT:], others=own)
    return (first, *(replace(failure, traceback="") for failure in others))
