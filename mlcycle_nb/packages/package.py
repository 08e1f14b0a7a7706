"""A model package on disk: graph or code, signature, golden batch and reference window, bound by one digest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlcycle_nb.errors import IntegrityError
from mlcycle_nb.packages import golden, reference
from mlcycle_nb.packages.contents import check_names, read_file, read_recorded
from mlcycle_nb.packages.manifest import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    Manifest,
    Task,
    differs,
    parse_digest,
)
from mlcycle_nb.packages.signature import Signature

if TYPE_CHECKING:
    import pyarrow as pa

    from mlcycle_nb.packages.golden import Arrays

MANIFEST_BYTES = 1_048_576


@dataclass(frozen=True, slots=True)
class Package:
    """One immutable package; every read checks the bytes against the manifest.

    Parameters
    ----------
    path : Path
        Its folder.
    manifest : Manifest
        What the digest binds.
    """

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """``sha256:`` and the hash of the canonical manifest."""
        return self.manifest.digest

    @property
    def format(self) -> str:
        """``onnx`` or ``python``, or the name of another format plug-in."""
        return self.manifest.format

    @property
    def task(self) -> Task:
        """Classification or regression."""
        return self.manifest.task

    @property
    def signature(self) -> Signature:
        """Tensors in and out."""
        return self.manifest.signature

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the values of a row, in order."""
        return self.manifest.feature_names

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by label index; empty for a regressor."""
        return self.manifest.class_names

    def golden(self) -> tuple[Arrays, Arrays]:
        """Return the golden batch: inputs, and the original model's outputs."""
        return golden.unpack(self.read(golden.GOLDEN_NAME), where=str(self.path / golden.GOLDEN_NAME))

    def reference(self) -> pa.Table:
        """Return the reference window: feature columns, ``prediction`` and, when it was given, ``label``."""
        return reference.unpack(self.read(reference.REFERENCE_NAME), where=str(self.path / reference.REFERENCE_NAME))

    def read(self, name: str) -> bytes:
        """Return the bytes of one of its files, checked against the manifest."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise IntegrityError(f"{name} is not in the manifest", where=str(self.path))
        return read_recorded(self.path, name, entry)

    def signature_file(self) -> bytes | None:
        """Return who signed the digest, or None when nobody did."""
        if not (self.path / SIGNATURE_NAME).exists():
            return None
        return read_file(self.path, SIGNATURE_NAME, limit=4096)

    def check_files(self) -> None:
        """Read every file and raise IntegrityError when one byte differs from the manifest."""
        check_names(self.path, {MANIFEST_NAME, *self.manifest.files}, optional={SIGNATURE_NAME})
        for name in self.manifest.files:
            self.read(name)


def open_package(path: Path, digest: str) -> Package:
    """Open the package in `path` when its manifest has this digest; files are checked as they are read."""
    expected = parse_digest(digest)
    content = read_file(path, MANIFEST_NAME, limit=MANIFEST_BYTES)
    manifest = Manifest.from_bytes(content, where=str(path / MANIFEST_NAME))
    found = manifest.digest.removeprefix("sha256:")
    if found != expected or manifest.to_bytes() != content:
        raise differs(expected, found, "package manifest", str(path))
    check_names(path, {MANIFEST_NAME, *manifest.files}, optional={SIGNATURE_NAME})
    return Package(path, manifest)
