"""Training in an isolated environment: its interpreter, what of this one's path goes with it, who runs in it."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlcycle_nb.development.provenance import Provenance, text_digest
from mlcycle_nb.errors import Refused
from mlcycle_nb.training.records import TrainingJob

if TYPE_CHECKING:
    from mlcycle_nb.context import Context
    from mlcycle_nb.development.environments.service import Environments


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where workers run.

    Attributes
    ----------
    environment : str
        Name of the isolated environment; empty for the interpreter of the kernel.
    lock : str
        What the environment holds.
    packages : tuple of str
        ``name==version`` of what can be imported there; empty for the interpreter of the kernel.
    """

    python: str
    sys_path: tuple[str, ...]
    environment: str = ""
    lock: str = ""
    version: str = ""
    packages: tuple[str, ...] = ()

    def mark(self, origin: Provenance) -> Provenance:
        """Return provenance that tells of the packages that the workers use, not of those of the kernel."""
        if not self.environment:
            return origin
        return replace(
            origin,
            packages=self.packages,
            lock_digest=text_digest("\n".join(self.packages)),
            python=self.version,
            environment=self.environment,
            environment_lock=self.lock,
        )


def here() -> Runtime:
    """Return the interpreter of this process."""
    return Runtime(sys.executable, tuple(path or os.getcwd() for path in sys.path))


def runtime(environments: Environments, name: str) -> Runtime:
    """Return where the workers of a job run that asks for an environment; an empty name asks for this one.

    Raises
    ------
    NotFound
        When there is no such environment.
    Refused
        When it is not ready, misses what training needs, or runs another Python, to which code cannot be carried.
    """
    if not name:
        return here()
    found = environments.usable(name)
    if found.missing:
        raise Refused(
            f"training cannot run in environment {name}: {', '.join(found.missing)} cannot be imported there",
            remedy="create it with --inherit, or with these among its packages",
        )
    wanted = ".".join(map(str, sys.version_info[:2]))
    if not found.python.startswith(f"{wanted}."):
        raise Refused(
            f"environment {name} has Python {found.python}, and a cell of Python {wanted} cannot be carried there",
            remedy=f"train from its own kernel ({found.kernel})" if found.kernel else f"%environment rebuild {name}",
        )
    lock = environments.lock(name)
    return Runtime(str(environments.python(name)), own_code_path(), name, found.lock, found.python, lock.packages)


def own_code_path() -> tuple[str, ...]:
    """Return the folders of `sys.path` that hold one's own code: what is installed here stays here."""
    installed = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *site.getsitepackages()}
    installed |= {site.getusersitepackages(), sys.prefix, sys.base_prefix, sys.exec_prefix}
    roots = [Path(place).resolve() for place in installed if place]
    kept = []
    for text in sys.path:
        path = Path(text or os.getcwd()).resolve()
        inside = any(path.is_relative_to(root) for root in roots)
        if not inside and path.suffix != ".zip" and not any(_names(path, root) for root in roots):
            kept.append(str(path))
    return tuple(dict.fromkeys(kept))


def users(context: Context, name: str) -> list[str]:
    """Return the jobs that run in an environment, or are yet to; their runs tell of those that have ended."""
    jobs = context.store.find(TrainingJob, active=True)
    return [f"training job {job.id} ({job.phase})" for job in jobs if job.environment == name]


def _names(path: Path, root: Path) -> bool:
    """Return whether an installed package put `path` there, as editable installs do."""
    if root.name not in {"site-packages", "dist-packages"} or not root.is_dir():
        return False
    return any(line.strip() == str(path) for file in root.glob("*.pth") for line in _lines(file))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
