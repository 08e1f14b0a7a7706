"""Checkpoints that are whole or not there: staged, synced, renamed, read back, and only then is an older one dropped.

One checkpoint is a folder ``step-0000000120.000`` (step and a serial number) with ``tensors.safetensors``,
``state.json`` and ``MANIFEST``, whose first line is the SHA-256 of the rest and which lists every file with its size
and SHA-256.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlcycle_nb.errors import IntegrityError, InvalidInput
from mlcycle_nb.files import fsync_folder, private_folder
from mlcycle_nb.supervisor.crash import crash_point
from mlcycle_nb.training.checkpoint_files import (
    MANIFEST_NAME,
    STATE_NAME,
    TENSORS_NAME,
    CheckpointRecord,
    Unreadable,
    make_manifest,
    read_manifest,
    verify_files,
)
from mlcycle_nb.training.tensor_file import read_tensors, write_synced, write_tensors

__all__ = [
    "MANIFEST_NAME",
    "STATE_NAME",
    "TENSORS_NAME",
    "CheckpointRecord",
    "CheckpointStore",
    "KeepPolicy",
    "Search",
    "order_of",
]
_FOLDER = re.compile(r"step-(\d{10,})\.(\d{3,})")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepPolicy:
    """Which checkpoints stay: the newest `last` and the `best` by metric."""

    last: int = 2
    best: int = 1

    def __post_init__(self) -> None:
        if self.last < 1 or self.best < 0:
            raise InvalidInput("checkpoints to keep: at least 1 last and 0 best", value=(self.last, self.best))


@dataclass(slots=True)
class Search:
    """What looking for the newest checkpoint found."""

    newest: CheckpointRecord | None = None
    rejected: list[tuple[str, str]] = field(default_factory=list)  # folder name, reason


def order_of(path: Path) -> tuple[int, int]:
    """Return step and serial number of a checkpoint's folder; the newest has the highest."""
    found = _FOLDER.fullmatch(path.name)
    if found is None:
        raise IntegrityError("is not a checkpoint's name", where=path.name)
    return int(found[1]), int(found[2])


class CheckpointStore:
    """The checkpoints of one job, in one folder with one writer.

    Parameters
    ----------
    folder : Path
        Made when missing, readable by this user only.
    keep : KeepPolicy
        What pruning leaves.

    Attributes
    ----------
    prune_failure : str or None
        Why the newest save could not drop older checkpoints, although it was committed itself.
    """

    def __init__(self, folder: Path, keep: KeepPolicy | None = None) -> None:
        self.folder = private_folder(folder)
        self.keep = keep or KeepPolicy()
        self.prune_failure: str | None = None
        self._damaged: set[str] = set()  # read and found changed: never counted among those that are kept
        self._doubtful: set[str] = set()  # could not be read, which may pass: not counted, and not dropped

    def save(
        self,
        *,
        step: int,
        epoch: int,
        tensors: Mapping[str, Any],
        state: Mapping[str, Any],
        metric: float | None = None,
        lower_is_better: bool = True,
    ) -> CheckpointRecord:
        """Commit one checkpoint and drop those that the policy no longer keeps.

        Returns the receipt as read back from the disk. A metric that is not finite counts as none, so it is never best.

        Raises
        ------
        OSError
            When the disk refuses; all older checkpoints are as they were.
        IntegrityError
            When what was read back differs from what was written; older checkpoints stay.
        """
        self.sweep()
        staging = self.folder / f".staging-{step:010d}-{os.getpid()}-{time.time_ns()}"
        staging.mkdir(mode=0o700)
        try:
            files = {TENSORS_NAME: write_tensors(staging / TENSORS_NAME, tensors)}
            crash_point("checkpoint.after_tensors")
            document = json.dumps(state, separators=(",", ":"), allow_nan=False).encode()
            files[STATE_NAME] = write_synced(staging / STATE_NAME, [document])
            manifest = make_manifest(
                step=step, epoch=epoch, metric=metric, lower_is_better=lower_is_better, files=files
            )
            write_synced(staging / MANIFEST_NAME, [manifest])
            fsync_folder(staging)
            crash_point("checkpoint.before_rename")
            final = self._free_name(step)
            os.rename(staging, final)
            crash_point("checkpoint.after_rename")
            fsync_folder(self.folder)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        receipt = self.verify(final)
        self.prune_failure = None
        try:
            self._prune(receipt)
        except OSError as failure:  # the new one is committed all the same; the next save tries again
            self.prune_failure = failure.strerror or str(failure)
        return receipt

    def newest_verified(self, *, before: tuple[int, int] | None = None) -> Search:
        """Return the newest checkpoint whose every byte is as it was written, and those that were passed over.

        Parameters
        ----------
        before : tuple of int and int, optional
            Step and serial number (see `order_of`) that it must be older than.
        """
        search = Search()
        for path in self._folders():
            if before is not None and order_of(path) >= before:
                continue
            try:
                search.newest = self.verify(path)
                break
            except IntegrityError as damage:
                search.rejected.append((path.name, damage.problem))
        return search

    def records(self) -> list[CheckpointRecord]:
        """Return the checkpoints with a sound manifest, newest first; file contents are not read."""
        found = []
        for path in self._folders():
            try:
                found.append(read_manifest(path))
            except IntegrityError:
                continue
        return found

    def verify(self, path: Path) -> CheckpointRecord:
        """Read a whole checkpoint and compare it with its manifest.

        Raises
        ------
        IntegrityError
            Naming the file and what is wrong with it.
        """
        try:
            record = read_manifest(path)
            verify_files(record)
        except IntegrityError as damage:
            (self._doubtful if isinstance(damage, Unreadable) else self._damaged).add(path.name)
            raise
        self._doubtful.discard(path.name)
        self._damaged.discard(path.name)
        return record

    def load(self, record: CheckpointRecord) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return tensors and state of a checkpoint that was verified.

        Raises
        ------
        IntegrityError
            When it can no longer be read.
        """
        try:
            state = json.loads((record.path / STATE_NAME).read_bytes())
            return read_tensors(record.path / TENSORS_NAME), state
        except (OSError, ValueError) as failure:
            reason = getattr(failure, "strerror", None) or str(failure)
            raise IntegrityError(f"cannot be loaded: {reason}", where=record.path.name) from failure

    def sweep(self) -> None:
        """Remove what a crash left of saves and deletions; committed checkpoints are not touched."""
        for path in self.folder.iterdir():
            if path.name.startswith((".staging-", ".trash-")):
                _remove(path)

    def best(self, records: list[CheckpointRecord] | None = None) -> list[CheckpointRecord]:
        """Return checkpoints with a metric, best first."""
        scored = [record for record in (self.records() if records is None else records) if record.metric is not None]
        return sorted(scored, key=lambda r: ((r.metric or 0.0) * (1 if r.lower_is_better else -1), -r.step))

    def _folders(self) -> list[Path]:
        found = [path for path in self.folder.iterdir() if _FOLDER.fullmatch(path.name)]
        return sorted(found, key=order_of, reverse=True)

    def _free_name(self, step: int) -> Path:
        # A step is saved again after a resume, or with its metric: the older one stays until the new one is sound.
        taken = [serial for at, serial in map(order_of, self._folders()) if at == step]
        return self.folder / f"step-{step:010d}.{1 + max(taken, default=-1):03d}"

    def _prune(self, committed: CheckpointRecord) -> None:
        for path in self._folders():
            if path.name in self._damaged and order_of(path) < order_of(committed.path):
                self._discard(path)
        records = [record for record in self.records() if record.path.name not in self._damaged | self._doubtful]
        newest_of_step = {record.step: record for record in reversed(records)}
        records_by_step = sorted(newest_of_step.values(), key=lambda record: record.step, reverse=True)
        kept = {record.path for record in records_by_step[: self.keep.last]} | {committed.path}
        kept |= {record.path for record in self.best(records)[: self.keep.best]}
        for record in records:
            if record.path not in kept:
                self._discard(record.path)

    def _discard(self, path: Path) -> None:
        # Renamed first: a kill inside rmtree must not leave half a folder under a checkpoint's name.
        trash = self.folder / f".trash-{path.name}-{time.time_ns()}"
        os.rename(path, trash)
        self._damaged.discard(path.name)
        crash_point("checkpoint.after_discard")
        _remove(trash)


def _remove(path: Path) -> None:
    """Remove a folder with what is in it, a file or a link; what cannot be removed is tried again at the next sweep."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        path.unlink()
    except OSError:
        pass
