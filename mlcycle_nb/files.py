"""Files done safely: atomic writes, bounded reads, private folders."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlcycle_nb.errors import InvalidInput, StoreError

SMALL_FILE_BYTES = 1_048_576
_NO_ROOM = "make room on the workspace's disk (df -h tells which is full), then run it again"
_WHAT_TO_DO = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EFBIG: "let files be larger (ulimit -f), then run it again",
    errno.EROFS: "have the disk mounted for writing, or set MLCYCLE_HOME to a folder on another one",
    errno.EIO: "the disk or its connection is failing: dmesg says more; take a copy of the workspace first",
}


@contextmanager
def disk_trouble_told() -> Iterator[None]:
    """Turn what a full, worn or read-only disk raises into one line that says what to do.

    Only for the outermost place, where a person is told: what is between must see the number of the error.

    Raises
    ------
    StoreError
        For such a disk; another failure of the system is left as it is.
    """
    try:
        yield
    except OSError as failure:
        if failure.errno not in _WHAT_TO_DO:
            raise
        raise StoreError(
            f"a file could not be written or read: {failure.strerror}",
            where=str(failure.filename or ""),
            remedy=_WHAT_TO_DO[failure.errno],
        ) from failure


def private_folder(path: Path) -> Path:
    """Create `path` and its parents; `path` itself is readable by this user only."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if stat.S_IMODE(path.stat().st_mode) != 0o700:
        path.chmod(0o700)
    return path


def fsync_folder(path: Path) -> None:
    """Make the names in `path` durable: a rename survives power loss only after its folder is synced."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes | str, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace `path` by `content` so that a reader or a crash sees the old bytes or the new, never a part.

    Parameters
    ----------
    path : Path
        File to write; its folder exists.
    content : bytes or str
        New content; text is written as UTF-8.
    mode : int
        Permission bits of the new file.
    durable : bool
        Sync file and folder, so that the content survives power loss once this returns.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    if durable:
        fsync_folder(path.parent)


def read_small_file(path: Path, *, limit: int = SMALL_FILE_BYTES) -> str:
    """Return the text of a regular file of at most `limit` bytes; a FIFO or device is refused, not waited for.

    A byte-order mark is accepted and dropped; UTF-16 and NUL bytes are refused by name.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise InvalidInput("there is no such file", value=str(path)) from None
    except OSError as failure:
        raise InvalidInput(f"cannot be opened: {failure.strerror}", value=str(path)) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)  # a folder cannot even be made a stream
        raise InvalidInput("is not a regular file", value=str(path))
    with os.fdopen(descriptor, "rb") as stream:
        if status.st_size > limit:
            raise InvalidInput(f"has {status.st_size} bytes, over {limit}", value=str(path))
        content = stream.read(limit + 1)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InvalidInput("is UTF-16 text", value=str(path), remedy="save it as UTF-8")
    if b"\x00" in content:
        raise InvalidInput(f"has a NUL byte at {content.index(0)}", value=str(path), remedy="save it as UTF-8 text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise InvalidInput(f"is not UTF-8 at byte {failure.start}", value=str(path)) from None


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hexadecimal text."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
