"""The proof that an archive can be lived from: restored into a scratch folder and scored in a process of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlcycle_nb.context import Context
from mlcycle_nb.errors import IntegrityError
from mlcycle_nb.retirement import archive


def prove(context: Context, path: Path, sha256: str, digest: str) -> int:
    """Prove the archive and return the number of golden rows that the restored model answered as it should.

    Parameters
    ----------
    path : Path
        The archive.
    sha256 : str
        Hash of the whole file as recorded when it was written.
    digest : str
        Digest that the restored package must have.

    Raises
    ------
    IntegrityError
        When one bit of the file differs, a member differs, or the restored model answers otherwise.
    """
    from mlcycle_nb.packages.package import open_package
    from mlcycle_nb.packages.probe import probe
    from mlcycle_nb.packages.signing import public_key_hex
    from mlcycle_nb.store.keys import signing_key

    archive.check_bytes(path, sha256)
    archive.check_members(path)
    with scratch(context) as folder:
        archive.extract(path, folder / "package", prefix=archive.PACKAGE_FOLDER)
        package = open_package(folder / "package", digest)
        package.check_files()
        # A foreign model is loaded, so never in this process: the supervisor must survive it.
        problem = probe(package, [public_key_hex(signing_key(context.workspace_id))])
        if problem:
            raise IntegrityError(
                f"the archived model cannot be lived from: {problem}", where=str(path), remedy="nothing was deleted"
            )
        inputs, _ = package.golden()
        return len(next(iter(inputs.values())))


@contextmanager
def scratch(context: Context) -> Iterator[Path]:
    """Make a private scratch folder and remove it afterwards; leftovers of killed processes go too."""
    root = context.folder("scratch")
    for stale in root.glob("retire-*"):
        owner = stale.name.split("-")[1]
        if owner.isdigit() and int(owner) != os.getpid() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(stale, ignore_errors=True)
    folder = context.folder("scratch", f"retire-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
