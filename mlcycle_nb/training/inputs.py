"""The inputs of a job, sealed: digests of what it was submitted with, so that running it again can tell a change."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from mlcycle_nb.errors import IntegrityError
from mlcycle_nb.files import sha256_file, write_atomically
from mlcycle_nb.training.job_folder import JobFolder, read_document


def seal_inputs(folder: JobFolder) -> None:
    """Store the digests of the cell and of what was carried."""
    write_atomically(folder.inputs, json.dumps(_digests(folder), indent=1))


def changed_inputs(folder: JobFolder) -> list[str]:
    """Return which files a job was submitted with have changed since, or are gone."""
    sealed = read_document(folder.inputs)
    if sealed is None:
        raise IntegrityError("the digests of the job's inputs are gone", where=str(folder.inputs))
    now = _digests(folder)
    return sorted(name for name in sealed.keys() | now.keys() if sealed.get(name) != now.get(name))


def copy_inputs(source: JobFolder, target: JobFolder) -> None:
    """Give `target` the cell and the payload of `source`; large files are shared, because nobody writes to them."""
    for name in _digests(source):
        place = target.path / name
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.link(source.path / name, place)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source.path / name, place)


def _digests(folder: JobFolder) -> dict[str, str]:
    files = [folder.cell, *sorted(path for path in folder.payload.rglob("*") if path.is_file())]
    return {_name(folder, path): sha256_file(path) for path in files if path.exists()}


def _name(folder: JobFolder, path: Path) -> str:
    return str(path.relative_to(folder.path))
