"""Checkpoints that are whole or not there: staged, synced, renamed, read back, and only then is an older one dropped.

One checkpoint is a folder ``step-0000000120.000`` (step and a serial number) with ``tensors.safetensors``,
``state.json`` and ``MANIFEST``, whose first line is the SHA-256 of the rest and which lists every file with its size
and SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlcycle_nb.errors import IntegrityError, InvalidInput
from mlcycle_nb.files import fsync_folder, private_folder
from mlcycle_nb.supervisor.crash import crash_point
from mlcycle_nb.training.tensor_file import read_tensors, write_synced, write_tensors

MANIFEST_NAME = "MANIFEST"
STATE_NAME = "state.json"
TENSORS_NAME = "tensors.safetensors"
_FOLDER = re.compile(r"step-(\d{10})\.(\d{3})")
_MANIFEST_LIMIT_BYTES = 1_048_576
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecord:
    """A committed checkpoint, from its manifest."""

    path: Path
    step: int
    epoch: int
    metric: float | None  # lower is better when `lower_is_better`
    lower_is_better: bool
    size_bytes: int
    files: dict[str, tuple[int, str]]


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


class CheckpointStore:
    """The checkpoints of one job, in one folder with one writer.

    Parameters
    ----------
    folder : Path
        Made when missing, readable by this user only.
    keep : KeepPolicy
        What pruning leaves.
    """

    def __init__(self, folder: Path, keep: KeepPolicy | None = None) -> None:
        self.folder = private_folder(folder)
        self.keep = keep or KeepPolicy()

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
            finite = metric is not None and math.isfinite(metric)
            body = json.dumps(
                {
                    "format": FORMAT,
                    "step": step,
                    "epoch": epoch,
                    "metric": metric if finite else None,
                    "lower_is_better": lower_is_better,
                    "files": files,
                },
                sort_keys=True,
            ).encode()
            write_synced(staging / MANIFEST_NAME, [hashlib.sha256(body).hexdigest().encode() + b"\n", body])
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
        self._prune(receipt)
        return receipt

    def newest_verified(self) -> Search:
        """Return the newest checkpoint whose every byte is as it was written, and those that were passed over."""
        search = Search()
        for path in self._folders():
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
                found.append(_read_manifest(path))
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
        record = _read_manifest(path)
        for name, (size, digest) in record.files.items():
            found_size, found_digest = _digest_file(path / name)
            if found_size != size:
                raise IntegrityError(f"{name} has {found_size} bytes instead of {size}", where=path.name)
            if found_digest != digest:
                raise IntegrityError(f"{name} has changed", where=path.name)
        return record

    def load(self, record: CheckpointRecord) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return tensors and state of a checkpoint that was verified."""
        return read_tensors(record.path / TENSORS_NAME), json.loads((record.path / STATE_NAME).read_bytes())

    def sweep(self) -> None:
        """Remove what a crash left of saves and deletions; committed checkpoints are not touched."""
        for path in self.folder.iterdir():
            if path.name.startswith((".staging-", ".trash-")):
                shutil.rmtree(path, ignore_errors=True)

    def best(self, records: list[CheckpointRecord] | None = None) -> list[CheckpointRecord]:
        """Return checkpoints with a metric, best first."""
        scored = [record for record in (self.records() if records is None else records) if record.metric is not None]
        return sorted(scored, key=lambda r: ((r.metric or 0.0) * (1 if r.lower_is_better else -1), -r.step))

    def _folders(self) -> list[Path]:
        found = [path for path in self.folder.iterdir() if _FOLDER.fullmatch(path.name)]
        return sorted(found, key=lambda path: path.name, reverse=True)

    def _free_name(self, step: int) -> Path:
        # A step is saved again after a resume, or with its metric: the older one stays until the new one is sound.
        taken = [path.name for path in self._folders() if path.name.startswith(f"step-{step:010d}.")]
        serial = 1 + int(taken[0].partition(".")[2]) if taken else 0
        return self.folder / f"step-{step:010d}.{serial:03d}"

    def _prune(self, committed: CheckpointRecord) -> None:
        records = self.records()
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
        crash_point("checkpoint.after_discard")
        if trash.is_symlink() or not trash.is_dir():
            trash.unlink()
        else:
            shutil.rmtree(trash, ignore_errors=True)


def _read_manifest(path: Path) -> CheckpointRecord:
    status = path.lstat() if path.is_symlink() or path.exists() else None
    if status is None or not stat.S_ISDIR(status.st_mode):
        raise IntegrityError("is not a folder", where=path.name)
    if status.st_uid != os.getuid():
        raise IntegrityError("belongs to another user", where=path.name)
    content = _read_regular(path / MANIFEST_NAME, _MANIFEST_LIMIT_BYTES)
    digest, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise IntegrityError("the manifest has changed", where=path.name)
    manifest = json.loads(body)
    if manifest.get("format") != FORMAT:
        raise IntegrityError("is of a format that this release does not read", where=path.name)
    if path.name.partition(".")[0] != f"step-{manifest['step']:010d}":
        raise IntegrityError(f"holds step {manifest['step']}", where=path.name)
    files = {name: (int(size), str(checksum)) for name, (size, checksum) in manifest["files"].items()}
    present = {entry.name for entry in os.scandir(path)}
    expected = {MANIFEST_NAME, *files}
    for name in sorted(expected ^ present):
        raise IntegrityError(f"{name} is {'missing' if name in expected else 'not in the manifest'}", where=path.name)
    return CheckpointRecord(
        path=path,
        step=manifest["step"],
        epoch=manifest["epoch"],
        metric=manifest["metric"],
        lower_is_better=manifest["lower_is_better"],
        size_bytes=sum(size for size, _ in files.values()),
        files=files,
    )


def _open_regular(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as failure:
        raise IntegrityError(f"{path.name} cannot be read: {failure.strerror}", where=path.parent.name) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(descriptor)
        raise IntegrityError(f"{path.name} is a link or not a regular file", where=path.parent.name)
    return descriptor


def _read_regular(path: Path, limit: int) -> bytes:
    with os.fdopen(_open_regular(path), "rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise IntegrityError(f"{path.name} is over {limit} bytes", where=path.parent.name)
    return content


def _digest_file(path: Path) -> tuple[int, str]:
    with os.fdopen(_open_regular(path), "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        return size, hashlib.file_digest(stream, "sha256").hexdigest()
