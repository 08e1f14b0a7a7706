"""Reads the files of a package: only regular files of this user, and only when their bytes are the recorded ones."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from mlcycle_nb.errors import IntegrityError, NotFound, Refused
from mlcycle_nb.packages.manifest import FileEntry, differs

CODE_SUFFIXES = (
    ".pt", ".pth", ".pkl", ".pickle", ".bin", ".joblib", ".dill", ".npy.pkl", ".keras", ".h5", ".ckpt", ".mar", ".py",
)  # fmt: skip
"""Files that run code when their usual loader reads them."""


def read_file(folder: Path, name: str, *, limit: int) -> bytes:
    """Return the bytes of one file, opened once: no link is followed, nothing but a regular file is read.

    Raises
    ------
    Refused
        For a symbolic link, a hard link, another user's file, a file others may write, or one over `limit` bytes.
    """
    descriptor = _open(folder, name)
    with os.fdopen(descriptor, "rb") as stream:
        _check_status(os.fstat(stream.fileno()), folder / name, limit)
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise Refused(f"grew over {limit} bytes while it was read", where=str(folder / name))
    return content


def read_recorded(folder: Path, name: str, entry: FileEntry) -> bytes:
    """Return the bytes of one file when they are the recorded ones."""
    content = read_file(folder, name, limit=entry.size_bytes)
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise differs(entry.sha256, found, name, str(folder / name))
    return content


def check_names(folder: Path, expected: set[str], *, optional: set[str]) -> None:
    """Refuse a folder that holds a file more or less than recorded."""
    present = {item.name for item in os.scandir(folder)}
    missing = sorted(expected - present)
    if missing:
        raise IntegrityError(f"{missing[0]} is missing; {len(missing)} in all", where=str(folder))
    extra = sorted(present - expected - optional)
    if extra:
        raise IntegrityError(f"{extra[0]} is not in the manifest; {len(extra)} in all", where=str(folder))


def refuse_code_files(names: set[str], allowed: set[str], where: str) -> None:
    """Refuse files outside a format's allow-list; those that run code on load are named as such."""
    for name in sorted(names - allowed):
        suffix = next((s for s in CODE_SUFFIXES if name.lower().endswith(s)), None)
        if suffix:
            raise Refused(
                f"{name}: {suffix} files run code when they are loaded",
                where=where,
                remedy="package the model with build_package, which converts it to ONNX",
            )
        raise Refused(f"{name} is no file of this package format", where=where, remedy=f"known: {sorted(allowed)}")


def _open(folder: Path, name: str) -> int:
    try:
        folder_descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound("there is no such package folder", value=str(folder)) from None
    except OSError as failure:
        raise Refused(f"a package is a plain folder: {failure.strerror}", value=str(folder)) from None
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=folder_descriptor)
    except FileNotFoundError:
        raise IntegrityError(f"{name} is missing", where=str(folder)) from None
    except OSError as failure:
        if os.path.islink(folder / name):
            raise Refused(f"{name} is a symbolic link", where=str(folder)) from None
        raise Refused(f"{name} cannot be opened: {failure.strerror}", where=str(folder)) from None
    finally:
        os.close(folder_descriptor)


def _check_status(status: os.stat_result, path: Path, limit: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Refused("is not a regular file", where=str(path))
    if status.st_uid != os.geteuid():
        raise Refused(f"belongs to user {status.st_uid}, not to this one", where=str(path))
    if status.st_nlink != 1:
        raise Refused(f"has {status.st_nlink} hard links; its bytes can change from elsewhere", where=str(path))
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise Refused("can be written by other users", where=str(path), remedy=f"chmod 600 {path}")
    if status.st_size > limit:
        raise Refused(f"has {status.st_size} bytes, over {limit}", where=str(path))
