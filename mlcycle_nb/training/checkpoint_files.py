"""Reading one checkpoint's folder without trusting it: whatever is wrong with it becomes an IntegrityError by name."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlcycle_nb.errors import IntegrityError

MANIFEST_NAME = "MANIFEST"
STATE_NAME = "state.json"
TENSORS_NAME = "tensors.safetensors"
FORMAT = 1
_MANIFEST_LIMIT_BYTES = 1_048_576


class Unreadable(IntegrityError):
    """A file or folder could not be read, which may pass; what was read is not known to be damaged."""


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


def make_manifest(
    *, step: int, epoch: int, metric: float | None, lower_is_better: bool, files: dict[str, tuple[int, str]]
) -> bytes:
    """Return the manifest's content; a metric that is not finite counts as none."""
    body = json.dumps(
        {
            "format": FORMAT,
            "step": step,
            "epoch": epoch,
            "metric": metric if metric is not None and math.isfinite(metric) else None,
            "lower_is_better": lower_is_better,
            "files": files,
        },
        sort_keys=True,
    ).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def read_manifest(path: Path) -> CheckpointRecord:
    """Return what a checkpoint's manifest says, after a look at its folder; file contents are not read.

    Raises
    ------
    IntegrityError
        Naming what is wrong with the folder or its manifest.
    """
    _refuse_foreign_folder(path)
    content = _read_regular(path / MANIFEST_NAME, _MANIFEST_LIMIT_BYTES)
    digest, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise IntegrityError("the manifest has changed", where=path.name)
    try:
        record = _parse(path, json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise IntegrityError("the manifest is not one of ours", where=path.name) from None
    if path.name.partition(".")[0] != f"step-{record.step:010d}":
        raise IntegrityError(f"holds step {record.step}", where=path.name)
    try:
        present = {entry.name for entry in os.scandir(path)}
    except OSError as failure:
        raise Unreadable(f"cannot be listed: {failure.strerror}", where=path.name) from None
    expected = {MANIFEST_NAME, *record.files}
    for name in sorted(expected ^ present):
        raise IntegrityError(f"{name} is {'missing' if name in expected else 'not in the manifest'}", where=path.name)
    return record


def verify_files(record: CheckpointRecord) -> None:
    """Read every file of a checkpoint and compare it with the manifest.

    Raises
    ------
    IntegrityError
        Naming the file and what is wrong with it.
    """
    where = record.path.name
    for name, (size, digest) in record.files.items():
        found_size, found_digest = _digest_file(record.path / name)
        if found_size != size:
            raise IntegrityError(f"{name} has {found_size} bytes instead of {size}", where=where)
        if found_digest != digest:
            raise IntegrityError(f"{name} has changed", where=where)


def _parse(path: Path, manifest: dict[str, Any]) -> CheckpointRecord:
    if manifest.get("format") != FORMAT:
        raise IntegrityError("is of a format that this release does not read", where=path.name)
    files = {str(name): (int(size), str(checksum)) for name, (size, checksum) in manifest["files"].items()}
    if set(files) != {TENSORS_NAME, STATE_NAME}:
        raise ValueError(sorted(files))
    metric = manifest["metric"]
    return CheckpointRecord(
        path=path,
        step=int(manifest["step"]),
        epoch=int(manifest["epoch"]),
        metric=None if metric is None else float(metric),
        lower_is_better=bool(manifest["lower_is_better"]),
        size_bytes=sum(size for size, _ in files.values()),
        files=files,
    )


def _refuse_foreign_folder(path: Path) -> None:
    try:
        status = path.lstat()
    except OSError as failure:
        raise Unreadable(f"cannot be read: {failure.strerror}", where=path.name) from None
    if not stat.S_ISDIR(status.st_mode):
        raise IntegrityError("is not a folder", where=path.name)
    if status.st_uid != os.getuid():
        raise IntegrityError("belongs to another user", where=path.name)


def _open_regular(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise IntegrityError(f"{path.name} is a link or not a regular file", where=path.parent.name)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _read_regular(path: Path, limit: int) -> bytes:
    try:
        with os.fdopen(_open_regular(path), "rb") as stream:
            content = stream.read(limit + 1)
    except OSError as failure:
        raise _unreadable(path, failure) from None
    if len(content) > limit:
        raise IntegrityError(f"{path.name} is over {limit} bytes", where=path.parent.name)
    return content


def _digest_file(path: Path) -> tuple[int, str]:
    try:
        with os.fdopen(_open_regular(path), "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            return size, hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as failure:
        raise _unreadable(path, failure) from None


def _unreadable(path: Path, failure: OSError) -> IntegrityError:
    # A file that is gone, or a link in its place, will not come back; anything else may be the disk's bad moment.
    gone = failure.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
    kind = IntegrityError if gone else Unreadable
    return kind(f"{path.name} cannot be read: {failure.strerror}", where=path.parent.name)
