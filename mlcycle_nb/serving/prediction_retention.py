"""Keeps the prediction logs of one environment within their bytes and their age, stopped versions' logs as well.

``python -m mlcycle_nb.serving.prediction_retention ROOT ENVIRONMENT --bytes N --days D`` does one pass. A replica
merges its own segments while it is busy; this merges what is left, and alone decides what is removed.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from mlcycle_nb.references import check_name
from mlcycle_nb.serving.prediction_compaction import LOCK, compact, finish_earlier
from mlcycle_nb.serving.prediction_segments import COMPACTED, SEGMENT
from mlcycle_nb.supervisor.crash import crash_point

QUIET = timedelta(hours=1)
"""Segments older than this are merged however few they are: nothing comes after them soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much of a model's log in one environment is kept; the settings ``serving.prediction_log_*`` say it."""

    max_bytes: int
    max_age: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What one pass did to a model's log: segments merged, files removed and their bytes."""

    merged: int = 0
    removed: int = 0
    removed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    size: int
    newest: float  # time of its newest row


def keep_within(root: Path, environment: str, retention: Retention, *, now: float | None = None) -> dict[str, Kept]:
    """Merge old segments of each model's versions, then remove each model's oldest files beyond `retention`.

    The bounds are for all versions of a model in the environment together. Hidden files, and so whatever is being
    written, are never touched. Crash-safe: a file is removed as a whole, and one that a merge has replaced first.

    Returns
    -------
    dict of str to Kept
        What was done, by model; models without a log are left out.
    """
    moment = time.time() if now is None else now
    base = root / check_name(environment, "environment")
    done = {}
    for model in sorted(base.iterdir()) if base.is_dir() else ():
        versions = [folder for folder in sorted(model.glob("v*")) if folder.is_dir()]
        merged = 0
        for folder in versions:
            try:
                merged += _merged(folder, moment)
            except (OSError, ValueError) as failure:  # Arrow's are ValueErrors; the bounds hold all the same
                print(f"{model.name}/{folder.name} is not merged: {failure}", file=sys.stderr)
        removed = [
            file.size for folder, files in _beyond(versions, retention, moment) for file in _remove(folder, files)
        ]
        if versions:
            done[model.name] = Kept(merged=merged, removed=len(removed), removed_bytes=sum(removed))
    return done


def _merged(folder: Path, now: float) -> int:
    total = 0
    while last := compact(folder, now=now).merged:
        total += last
    while last := compact(folder, min_age=QUIET, min_segments=2, now=now).merged:
        total += last
    return total


def _beyond(versions: Sequence[Path], retention: Retention, now: float) -> list[tuple[Path, list[_File]]]:
    """Return what has to go, by folder: the oldest files of all versions, by the time that their names begin with."""
    found = [(folder, file) for folder in versions for file in _files(folder)]
    total = sum(file.size for _, file in found)
    going: dict[Path, list[_File]] = {}
    for folder, file in sorted(found, key=lambda pair: pair[1].path.name):
        if total > retention.max_bytes or now - file.newest > retention.max_age.total_seconds():
            going.setdefault(folder, []).append(file)
            total -= file.size
    return list(going.items())


def _files(folder: Path) -> Iterator[_File]:
    for path in folder.iterdir():
        if path.name.endswith((SEGMENT, COMPACTED)) and not path.name.startswith("."):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # merged meanwhile by a replica's own pass
            yield _File(path, status.st_size, status.st_mtime)


def _remove(folder: Path, files: Sequence[_File]) -> Iterator[_File]:
    with _only_one(folder) as alone:
        if not alone:
            return  # a merge reads them now: the next pass removes them
        # A merged file that goes must not bring back the segments that it replaces.
        finish_earlier(folder)
        for file in files:
            crash_point("prediction_log.before_remove")
            if file.path.exists():
                file.path.unlink(missing_ok=True)
                yield file


@contextmanager
def _only_one(folder: Path) -> Iterator[bool]:
    with open(folder / LOCK, "a") as lock:
        os.chmod(lock.name, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def main(arguments: Sequence[str] | None = None) -> None:
    """Do one pass at the lowest priority."""
    parser = argparse.ArgumentParser(prog="mlcycle_nb.serving.prediction_retention", description="Keep logs in bounds.")
    parser.add_argument("root", type=Path)
    parser.add_argument("environment")
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--days", type=float, required=True)
    options = parser.parse_args(arguments)
    os.nice(19)
    bounds = Retention(max_bytes=options.bytes, max_age=timedelta(days=options.days))
    for model, done in keep_within(options.root, options.environment, bounds).items():
        if done.merged or done.removed:
            print(f"{model}: merged {done.merged} segments, removed {done.removed} files, {done.removed_bytes} bytes")


if __name__ == "__main__":
    main()
