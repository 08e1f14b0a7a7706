"""The package store: one folder a package, named by its digest, put in place by a single rename."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlcycle_nb.errors import IntegrityError, MLCycleError, NotFound, Refused
from mlcycle_nb.files import fsync_folder, private_folder, write_atomically
from mlcycle_nb.packages.contents import read_file
from mlcycle_nb.packages.formats import formats
from mlcycle_nb.packages.manifest import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    FileEntry,
    Manifest,
    check_file_name,
    parse_digest,
)
from mlcycle_nb.packages.package import MANIFEST_BYTES, Package, open_package
from mlcycle_nb.packages.signing import sign_digest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FILE_BYTES = 2 * 1024**3 - 1
_STAGING = ".staging-"


class PackageStore:
    """Packages under one folder, each in ``sha256-<digest>/``; content never changes once it is there.

    Parameters
    ----------
    root : Path
        Folder of the store; made private to this user.
    """

    def __init__(self, root: Path) -> None:
        self.root = private_folder(root)

    def path_of(self, digest: str) -> Path:
        """Return where the package of this digest is, or would be."""
        return self.root / f"sha256-{parse_digest(digest)}"

    def add(self, build_folder: Path, *, signer: Ed25519PrivateKey | None = None) -> Package:
        """Copy a built package in, check it and commit it by rename; adding the same bytes again changes nothing.

        Parameters
        ----------
        build_folder : Path
            Holds ``manifest.json`` and the files of the package. The hashes of the manifest are filled in here;
            hashes that are already there must fit.
        signer : Ed25519PrivateKey, optional
            Key of this workspace; its signature is what lets a package that runs code be loaded.
        """
        self._sweep()
        staging = private_folder(self.root / f"{_STAGING}{os.getpid()}-{os.urandom(6).hex()}")
        try:
            manifest = self._stage(build_folder, staging)
            package = Package(staging, manifest)
            formats.load(manifest.format).check(package)
            package.golden()
            if signer is not None:
                write_atomically(staging / SIGNATURE_NAME, sign_digest(signer, manifest.digest))
            return self._commit(staging, manifest, signer)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def open(self, digest: str) -> Package:
        """Return the package of this digest; its manifest is verified now, each file when it is read."""
        path = self.path_of(digest)
        if not path.exists() and not path.is_symlink():
            raise NotFound("no package of this digest", value=digest, where=str(self.root))
        package = open_package(path, digest)
        formats.load(package.format)
        return package

    def verify(self, digest: str) -> None:
        """Read every byte of a package and run its format's checks; raise what is wrong first."""
        package = self.open(digest)
        package.check_files()
        formats.load(package.format).check(package)

    def digests(self) -> list[str]:
        """Return the digests of all packages, sorted."""
        return sorted(f"sha256:{item.name[7:]}" for item in self.root.iterdir() if item.name.startswith("sha256-"))

    def remove(self, digest: str) -> None:
        """Delete a package; removing one that is gone changes nothing."""
        path = self.path_of(digest)
        if not path.exists():
            return
        doomed = self.root / f"{_STAGING}{os.getpid()}-{os.urandom(6).hex()}"
        path.rename(doomed)
        fsync_folder(self.root)
        shutil.rmtree(doomed)

    def _stage(self, build_folder: Path, staging: Path) -> Manifest:
        content = read_file(build_folder, MANIFEST_NAME, limit=MANIFEST_BYTES)
        declared = Manifest.from_bytes(content, where=str(build_folder / MANIFEST_NAME))
        entries: dict[str, FileEntry] = {}
        for item in sorted(build_folder.iterdir()):
            if item.name in {MANIFEST_NAME, SIGNATURE_NAME}:
                continue
            name = check_file_name(item.name, str(build_folder))
            data = read_file(build_folder, name, limit=FILE_BYTES)
            entries[name] = FileEntry(hashlib.sha256(data).hexdigest(), len(data))
            write_atomically(staging / name, data)
        if declared.files and declared.files != entries:
            changed = sorted(
                n for n in declared.files.keys() | entries.keys() if declared.files.get(n) != entries.get(n)
            )
            raise IntegrityError(f"{changed[0]} differs from the manifest", where=str(build_folder))
        manifest = replace(declared, files=entries)
        write_atomically(staging / MANIFEST_NAME, manifest.to_bytes())
        if (build_folder / SIGNATURE_NAME).exists():
            write_atomically(staging / SIGNATURE_NAME, read_file(build_folder, SIGNATURE_NAME, limit=4096))
        return manifest

    def _commit(self, staging: Path, manifest: Manifest, signer: Ed25519PrivateKey | None) -> Package:
        target = self.path_of(manifest.digest)
        fsync_folder(staging)
        try:
            os.rename(staging, target)
        except OSError as failure:
            if not target.is_dir():
                raise Refused(f"the package cannot be put in place: {failure.strerror}", where=str(target)) from failure
            self._confirm(manifest.digest)
            if signer is not None:
                write_atomically(target / SIGNATURE_NAME, sign_digest(signer, manifest.digest))
        fsync_folder(self.root)
        return Package(target, manifest)

    def _confirm(self, digest: str) -> None:
        try:
            self.verify(digest)
        except MLCycleError as failure:
            raise IntegrityError(
                f"the store already holds this package, damaged: {failure.problem}",
                where=str(self.path_of(digest)),
                remedy="remove that folder, then add the package again",
            ) from failure

    def _sweep(self) -> None:
        # A process that was killed while adding leaves its staging folder; the next add clears it away.
        for item in self.root.glob(f"{_STAGING}*"):
            owner = item.name.removeprefix(_STAGING).partition("-")[0]
            if not owner.isdigit() or not _alive(int(owner)):
                shutil.rmtree(item, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
