"""The manifest of a package: what is in it, byte for byte; its SHA-256 is the package's name."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from mlcycle_nb.errors import IntegrityError, InvalidInput
from mlcycle_nb.packages.signature import Signature

Task = Literal["classification", "regression"]
SCHEMA = 1
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "signature.json"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HEX = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_KEYS = {
    "schema", "format", "task", "signature", "files", "feature_names", "class_names", "golden", "details",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a package."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GoldenTolerance:
    """How near a runtime must come to the original model's answers on the golden batch."""

    atol: float
    rtol: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that a package's digest binds.

    Parameters
    ----------
    format : str
        Name of the package format plug-in that loads it.
    task : {"classification", "regression"}
        Which outputs to expect: ``label`` (and ``probabilities``), or ``value``.
    signature : Signature
        Tensors in and out.
    files : dict
        Name to SHA-256 and size, for every file but the manifest and its signature.
    feature_names, class_names : tuple of str
        Names of the values of a row; names of the classes, by label index.
    golden : GoldenTolerance
        Tolerance against the stored golden batch.
    details : dict
        How it was made: exporter, library versions, largest difference seen.
    """

    format: str
    task: Task
    signature: Signature
    files: dict[str, FileEntry]
    feature_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    golden: GoldenTolerance
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """``sha256:`` and the hash of the canonical manifest."""
        return "sha256:" + hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Return the canonical form: sorted keys, no spaces, UTF-8."""
        form = {
            "schema": SCHEMA,
            "format": self.format,
            "task": self.task,
            "signature": self.signature.to_json(),
            "files": {name: {"sha256": e.sha256, "size_bytes": e.size_bytes} for name, e in self.files.items()},
            "feature_names": list(self.feature_names),
            "class_names": list(self.class_names),
            "golden": {"atol": self.golden.atol, "rtol": self.golden.rtol},
            "details": self.details,
        }
        return json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, content: bytes, *, where: str) -> Manifest:
        """Read a manifest; anything unexpected is refused by name."""
        try:
            form = json.loads(content)
            if not isinstance(form, dict):
                raise TypeError("is not an object")
            schema = form.get("schema")
            if schema != SCHEMA:
                raise InvalidInput(
                    f"package schema {schema!r}; this release reads schema {SCHEMA}",
                    where=where,
                    remedy="use the release that wrote the package",
                )
            unknown = sorted(set(form) - _KEYS)
            if unknown:
                raise InvalidInput("unknown manifest key", value=unknown[0], where=where)
            if form["task"] not in get_args(Task):
                raise InvalidInput("unknown task", value=form["task"], where=where)
            files = {check_file_name(name, where): _entry(e, where) for name, e in form["files"].items()}
            return cls(
                format=form["format"],
                task=form["task"],
                signature=Signature.from_json(form["signature"]),
                files=files,
                feature_names=tuple(form["feature_names"]),
                class_names=tuple(form["class_names"]),
                golden=GoldenTolerance(float(form["golden"]["atol"]), float(form["golden"]["rtol"])),
                details=dict(form["details"]),
            )
        except InvalidInput:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as failure:
            raise InvalidInput(f"not a package manifest: {failure}", where=where) from None


def _entry(form: dict[str, Any], where: str) -> FileEntry:
    if not isinstance(form["sha256"], str) or not _HEX.fullmatch(form["sha256"]):
        raise InvalidInput("a file hash is 64 hexadecimal digits", value=form["sha256"], where=where)
    if type(form["size_bytes"]) is not int or form["size_bytes"] < 0:
        raise InvalidInput("a file size is a whole number", value=form["size_bytes"], where=where)
    return FileEntry(form["sha256"], form["size_bytes"])


def check_file_name(name: str, where: str) -> str:
    """Return `name` when it is a plain file name: no folder, no leading dot."""
    if not _FILE_NAME.fullmatch(name) or name in {MANIFEST_NAME, SIGNATURE_NAME}:
        raise InvalidInput("not a file name a package may hold", value=name, where=where)
    return name


def parse_digest(digest: str) -> str:
    """Return the 64 hexadecimal digits of ``sha256:...`` (or ``sha256-...``)."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise InvalidInput("not a package digest", value=digest, remedy="a digest is sha256: and 64 hexadecimal digits")
    return match.group(1)


def differs(recorded: str, found: str, what: str, where: str) -> IntegrityError:
    """Return the error for bytes that are not the recorded ones."""
    return IntegrityError(
        f"{what}: recorded {recorded[:12]}, the bytes are {found[:12]}; not loaded",
        where=where,
        remedy="restore the package from its archive, or build it again",
    )
