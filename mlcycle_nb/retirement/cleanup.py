"""What a retired version leaves behind: each thing with its size, whether it goes, and why not when it stays."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mlcycle_nb.context import Context
from mlcycle_nb.errors import IntegrityError, MLCycleError, Refused
from mlcycle_nb.files import fsync_folder
from mlcycle_nb.retirement.records import CleanupItem, Retirement
from mlcycle_nb.retirement.world import ModelRegistry, Traffic

TOMBSTONES = "tombstones"


def package_folder(context: Context, digest: str) -> Path:
    """Return where the package store keeps this digest."""
    from mlcycle_nb.packages import PackageStore

    return PackageStore(context.folder("packages")).path_of(digest)


def package_place(context: Context, record: Retirement) -> Path | None:
    """Return the folder that holds the package now: the store, else the tombstone; None when it is in neither."""
    for folder in (package_folder(context, record.package_digest), _tombstone_of(context, record)):
        if folder.is_dir():
            return folder
    return None


def plan(context: Context, record: Retirement, traffic: Traffic, registry: ModelRegistry) -> tuple[CleanupItem, ...]:
    """Return every thing of the version, with what would happen to it now.

    ``refuse`` stands for what ought to go and is held by somebody else; as long as one item is refused, the package
    stays. ``keep`` stays on purpose.
    """
    environment, model, version = record.environment, record.model, record.model_version
    items = [
        CleanupItem(kind="process", name=name, size_bytes=0, disposition="delete", why="serves only this version")
        for name in traffic.processes(environment, model, version)
    ]
    items.append(_package_item(context, record, traffic, registry))
    for alias, named in sorted(registry.aliases(model).items()):
        if named == version:
            why = f"names {record.reference}: move or remove it"
            items.append(
                CleanupItem(kind="alias", name=f"{model}@{alias}", size_bytes=0, disposition="refuse", why=why)
            )
    address = f"/v2/models/{model}/versions/{version}"
    why = "answers 410 and names the successor" if record.replacement else "answers 410"
    items.append(CleanupItem(kind="route", name=address, size_bytes=0, disposition="keep", why=why))
    predictions = context.home / "predictions" / environment / model / f"v{version}"
    if predictions.is_dir():
        why = "prediction log: goes by its own retention time"
        size = folder_size(predictions)
        items.append(
            CleanupItem(kind="file", name=_below(context, predictions), size_bytes=size, disposition="keep", why=why)
        )
    why = "history of the workspace; the audit trail names it"
    items.append(CleanupItem(kind="record", name=record.reference, size_bytes=0, disposition="keep", why=why))
    return tuple(items)


def _package_item(context: Context, record: Retirement, traffic: Traffic, registry: ModelRegistry) -> CleanupItem:
    folder = package_place(context, record) or package_folder(context, record.package_digest)
    name = _below(context, folder)
    if not folder.is_dir():
        return CleanupItem(kind="file", name=name, size_bytes=0, disposition="keep", why="is gone already")
    holders = holders_of_package(record, traffic, registry)
    return CleanupItem(
        kind="file",
        name=name,
        size_bytes=folder_size(folder),
        disposition="refuse" if holders else "delete",
        why=f"held by {', '.join(holders)}" if holders else "package of this version only",
    )


def holders_of_package(record: Retirement, traffic: Traffic, registry: ModelRegistry) -> list[str]:
    """Return who else needs the package: other versions with the same digest, and other environments."""
    versions = registry.versions_with(record.package_digest)
    if record.reference not in versions:
        # Empty and failed look alike from here; a registry that does not know this very version proves nothing.
        raise IntegrityError(
            f"the registry lists {versions or 'no version'} for this package and not {record.reference}",
            where=record.package_digest,
            remedy="nothing was deleted; check the registry",
        )
    others = [version for version in versions if version != record.reference]
    elsewhere = [
        f"{environment}/{reference}"
        for reference in versions
        for environment in traffic.environments(reference.partition("/")[0], int(reference.partition("/")[2]))
        if (environment, reference) != (record.environment, record.reference)
    ]
    return sorted(set(others) | set(elsewhere))


def refused(items: Iterable[CleanupItem]) -> list[CleanupItem]:
    """Return the items that block the clean-up."""
    return [item for item in items if item.disposition == "refuse"]


def entomb(context: Context, record: Retirement) -> str:
    """Move the package out of the store into its tombstone by one rename; return its path below the workspace."""
    target = context.folder(TOMBSTONES) / tombstone_name(record)
    source = package_folder(context, record.package_digest)
    if source.is_dir():
        if target.exists():
            raise Refused("a package is in the store and in its tombstone", value=str(target), remedy="look at both")
        os.rename(source, target)
        fsync_folder(source.parent)
        fsync_folder(target.parent)
    if not target.is_dir():
        raise IntegrityError("the package is neither in the store nor in its tombstone", where=str(source))
    return _below(context, target)


def exhume(context: Context, record: Retirement) -> bool:
    """Move the package back from its tombstone; return whether one was there."""
    tombstone = _tombstone_of(context, record)
    target = package_folder(context, record.package_digest)
    if target.is_dir() or not tombstone.is_dir():
        return False
    os.rename(tombstone, target)
    fsync_folder(tombstone.parent)
    fsync_folder(target.parent)
    return True


def tombstone_is_whole(context: Context, record: Retirement) -> bool:
    """Return whether the tombstone holds the package, every byte of it."""
    from mlcycle_nb.packages.package import open_package

    folder = _tombstone_of(context, record)
    if not folder.is_dir():
        return False
    try:
        open_package(folder, record.package_digest).check_files()
    except MLCycleError:
        return False
    return True


def delete_tombstone(context: Context, record: Retirement) -> None:
    """Delete the package in its tombstone, file by file; repeated, it deletes the rest."""
    folder = _tombstone_of(context, record)
    if not folder.is_dir():
        return
    for file in sorted(folder.iterdir()):
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise Refused("there is something in the tombstone that is not a plain file", value=str(file))
    for file in sorted(folder.iterdir()):
        file.unlink()
    fsync_folder(folder)
    folder.rmdir()
    fsync_folder(folder.parent)


def tombstone_name(record: Retirement) -> str:
    """Return the name of the tombstone of a retirement."""
    return record.id.replace("/", ".") + "." + record.package_digest.partition(":")[2][:16]


def _tombstone_of(context: Context, record: Retirement) -> Path:
    return context.home / TOMBSTONES / tombstone_name(record)


def folder_size(folder: Path) -> int:
    """Return the bytes of all plain files below a folder, following no link; those that go meanwhile count nothing."""
    total = 0
    for place, _, names in os.walk(folder):  # unlike `Path.rglob`, it bears folders that go
        for name in names:
            with suppress(FileNotFoundError):  # prediction logs are merged while they are looked at
                found = os.lstat(os.path.join(place, name))
                total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total


def _below(context: Context, path: Path) -> str:
    return str(path.relative_to(context.home))
