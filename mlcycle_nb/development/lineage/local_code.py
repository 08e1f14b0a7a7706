"""Code of the user's own that is not a cell: modules beside the notebook, by digest, and whether git has them."""

from __future__ import annotations

import hashlib
import site
import sys
import sysconfig
from collections.abc import Collection, Mapping
from pathlib import Path

_OURS = Path(__file__).parents[2]


def local_modules(imported: Collection[str] = ()) -> dict[str, str]:
    """Return the files of loaded modules, and of `imported` ones, that no package manager installed: path -> digest."""
    found: dict[str, str] = {}
    for path in sorted({*_loaded(), *_on_path(imported)}):
        if not _installed(path):
            try:
                found[str(path)] = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
            except OSError:
                continue
    return found


def unrecorded(modules: Mapping[str, str], folder: Path, commit: str, untracked: Collection[str]) -> list[str]:
    """Return why some of `modules` cannot be brought back: git does not have them.

    Parameters
    ----------
    modules : mapping
        What `local_modules` returned.
    folder : Path
        Top of the repository; meaningless without a commit.
    commit : str
        The commit; empty outside a repository.
    untracked : collection of str
        Files that git does not know, relative to `folder`.
    """
    reasons = []
    for text in modules:
        path = Path(text)
        inside = bool(commit) and path.is_relative_to(folder)
        if not inside:
            reasons.append(
                f"{path.name} was imported from {path.parent}, outside the notebook's git repository: "
                "its code is not kept"
            )
        elif str(path.relative_to(folder)) in untracked:
            reasons.append(f"{path.relative_to(folder)} was imported and is not tracked by git: its code is not kept")
    return reasons


def _loaded() -> set[Path]:
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    return {Path(file).resolve() for file in files if isinstance(file, str) and file.endswith(".py")}


def _on_path(names: Collection[str]) -> set[Path]:
    found = set()
    for name in names:
        for folder in sys.path:
            places = (Path(folder or ".") / f"{name}.py", Path(folder or ".") / name / "__init__.py")
            place = next((p for p in places if p.is_file()), None)
            if place is not None:
                found.add(place.resolve())
                break
    return found


def _installed(path: Path) -> bool:
    if path.is_relative_to(_OURS) or "site-packages" in path.parts or "dist-packages" in path.parts:
        return True
    roots = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), site.getusersitepackages()}
    return any(path.is_relative_to(Path(root).resolve()) for root in roots if root)
