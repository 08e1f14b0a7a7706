"""The archive file: one zip of plain files, the same bytes for the same content, read back without trusting it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mlcycle_nb.errors import IntegrityError, MLCycleError, NotFound, Refused
from mlcycle_nb.files import fsync_folder, private_folder
from mlcycle_nb.store.record import canonical_json

MANIFEST = "MANIFEST.json"
SCHEMA = 1
PACKAGE_FOLDER = "package"
_MEMBER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9][A-Za-z0-9._-]{0,99}){0,3}")
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)
_REGULAR_0600 = (stat.S_IFREG | 0o600) << 16
_MANIFEST_BYTES = 16 * 1_048_576
_CHUNK = 1_048_576


@dataclass(frozen=True, slots=True)
class Member:
    """One file to be archived; `read` is called once, and its bytes must have the hash."""

    name: str
    sha256: str
    size_bytes: int
    read: Callable[[], bytes]

    @classmethod
    def of(cls, name: str, content: bytes | str) -> Member:
        """Return a member with this content."""
        data = content.encode() if isinstance(content, str) else content
        return cls(name, hashlib.sha256(data).hexdigest(), len(data), lambda: data)


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, read back from the disk."""

    sha256: str
    size_bytes: int
    members: int


def write_archive(target: Path, members: Sequence[Member], about: dict[str, Any]) -> Written:
    """Write the archive beside its place, sync it, and put it there by one rename.

    Parameters
    ----------
    target : Path
        The zip file; an older one is replaced.
    members : sequence of Member
        What goes in.
    about : dict
        What the manifest says beside the members: the version, the package digest.

    Raises
    ------
    IntegrityError
        When a member's bytes are not the ones that were announced.
    """
    ordered = sorted(members, key=lambda member: member.name)
    for member in ordered:
        _check_name(member.name, str(target))
    manifest = {
        "schema": SCHEMA,
        **about,
        "members": {m.name: {"sha256": m.sha256, "size_bytes": m.size_bytes} for m in ordered},
    }
    private_folder(target.parent)
    staged = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    descriptor = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w+b") as stream:
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                archive.writestr(_info(MANIFEST), canonical_json(manifest))
                for member in ordered:
                    content = member.read()
                    if hashlib.sha256(content).hexdigest() != member.sha256:
                        raise IntegrityError(f"{member.name} changed while it was archived", where=str(target))
                    archive.writestr(_info(member.name), content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(staged, target)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    fsync_folder(target.parent)
    with _open(target) as stream:
        return Written(_hash(stream), os.fstat(stream.fileno()).st_size, len(ordered))


def check_bytes(path: Path, sha256: str) -> None:
    """Raise IntegrityError unless the whole file has this hash, to the last bit."""
    with _open(path) as stream:
        found = _hash(stream)
    if found != sha256:
        raise IntegrityError(
            f"the archive was {sha256[:12]} when it was written and is {found[:12]} now",
            where=str(path),
            remedy="nothing was deleted; write it again with %retire archive, or put a good copy back",
        )


def check_members(path: Path) -> dict[str, Any]:
    """Read the whole archive, hash every member again, and return its manifest.

    Raises
    ------
    IntegrityError
        When a member is missing, not recorded, of another size or of other bytes.
    Refused
        When the file is no archive of this kind: links, folders, compression, encryption, a foreign schema.
    """
    with _opened(path) as archive:
        manifest = _manifest(archive, path)
        for name, entry in manifest["members"].items():
            with archive.open(name) as stream:
                found = hashlib.sha256()
                while chunk := stream.read(_CHUNK):
                    found.update(chunk)
            if found.hexdigest() != entry["sha256"]:
                raise _differs(name, entry["sha256"], found.hexdigest(), path)
    return manifest


def extract(path: Path, into: Path, *, prefix: str) -> list[Path]:
    """Copy the members below `prefix` into the folder `into`, one by one, each checked as it is written."""
    private_folder(into)
    written = []
    with _opened(path) as archive:
        manifest = _manifest(archive, path)
        for name, entry in manifest["members"].items():
            folder, slash, file = name.partition("/")
            if folder != prefix or not slash or "/" in file:
                continue
            content = archive.read(name)
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                raise _differs(name, entry["sha256"], hashlib.sha256(content).hexdigest(), path)
            _write_new(into / file, content)
            written.append(into / file)
    if not written:
        raise NotFound(f"the archive has no {prefix}/", where=str(path))
    return written


def read_member(path: Path, name: str) -> bytes:
    """Return one member, checked."""
    with _opened(path) as archive:
        entry = _manifest(archive, path)["members"].get(name)
        if entry is None:
            raise NotFound("the archive has no such member", value=name, where=str(path))
        content = archive.read(name)
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise _differs(name, entry["sha256"], hashlib.sha256(content).hexdigest(), path)
    return content


# -- parts ---------------------------------------------------------------------------------------------------


def _write_new(path: Path, content: bytes) -> None:
    # Never through a link that somebody put there, and never over a file.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags, 0o600), "wb") as stream:
            stream.write(content)
    except OSError as failure:
        raise Refused(f"cannot be written: {failure.strerror}", value=str(path)) from failure


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _FIXED_TIME)
    info.create_system = 3
    info.external_attr = _REGULAR_0600
    return info


def _check_name(name: str, where: str) -> None:
    if not _MEMBER_NAME.fullmatch(name) or name == MANIFEST:
        raise Refused("is not a name that an archive may hold", value=name, where=where)


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound("the archive is not there", value=str(path)) from None
    except OSError as failure:
        raise Refused(f"the archive cannot be opened: {failure.strerror}", value=str(path)) from None
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Refused("is not a regular file", value=str(path))
        yield stream


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with _open(path) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                yield archive
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as failure:
            if isinstance(failure, MLCycleError):
                raise
            raise IntegrityError(f"the archive cannot be read: {failure}", where=str(path)) from failure


def _hash(stream: IO[bytes]) -> str:
    stream.seek(0)
    return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # a file is readable and seekable


def _manifest(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    where = str(path)
    present: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.filename != MANIFEST:
            _check_name(info.filename, where)
        if info.filename in present:
            raise Refused("two members have one name", value=info.filename, where=where)
        if info.flag_bits & ~0x800 or info.compress_type != zipfile.ZIP_STORED or info.external_attr != _REGULAR_0600:
            raise Refused(f"{info.filename} is not a plain stored file", where=where)
        present[info.filename] = info
    if MANIFEST not in present or present[MANIFEST].file_size > _MANIFEST_BYTES:
        raise Refused("has no manifest of a reasonable size", where=where)
    form = json.loads(archive.read(MANIFEST))
    if form.get("schema") != SCHEMA or not isinstance(form.get("members"), dict):
        raise Refused(f"archive schema {form.get('schema')!r}; this release reads {SCHEMA}", where=where)
    recorded = set(form["members"])
    if recorded != set(present) - {MANIFEST}:
        odd = sorted(recorded ^ (set(present) - {MANIFEST}))
        raise IntegrityError(f"{odd[0]} is in the manifest or in the archive, not in both", where=where)
    for name, entry in form["members"].items():
        if present[name].file_size != entry["size_bytes"]:
            raise IntegrityError(f"{name} has {present[name].file_size} bytes, not {entry['size_bytes']}", where=where)
    return dict(form)


def _differs(name: str, recorded: str, found: str, path: Path) -> IntegrityError:
    return IntegrityError(f"{name}: recorded {recorded[:12]}, the bytes are {found[:12]}", where=str(path))
