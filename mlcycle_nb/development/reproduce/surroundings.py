"""What a run stood in, compared with what is there now: packages, modules of one's own, the machine."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlcycle_nb.development.environments.lock import Lock, package_differences, pins
from mlcycle_nb.development.provenance import Provenance, installed_packages, text_digest
from mlcycle_nb.files import sha256_file

if TYPE_CHECKING:
    from mlcycle_nb.development.environments.records import Environment
    from mlcycle_nb.development.environments.service import Environments


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a run can be run again, and how that differs from where it ran.

    Attributes
    ----------
    python : str
        The interpreter.
    origin : Provenance
        The provenance of the new run.
    environment : str
        The isolated environment; empty when it is none.
    """

    python: str
    origin: Provenance
    environment: str = ""
    packages: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def surroundings(environments: Environments, origin: Provenance, python: str) -> Surroundings:
    """Return where a run is run again: in its environment, made again from its lock when it is gone.

    Parameters
    ----------
    environments : Environments
    origin : Provenance
        Of the run.
    python : str
        The interpreter that it ran with, when that is known and it is no isolated environment's.

    Raises
    ------
    EngineError
        When the environment cannot be made again.
    """
    if origin.environment:
        record = _environment(environments, origin)
        lock = Lock.parse(record.lock)
        now = _now(origin, lock.packages, record.python)
        return compare(origin, now, str(environments.python(record.id)), record.id)
    if python == sys.executable or not Path(python).exists():
        return compare(origin, _now(origin, installed_packages(), platform.python_version()), sys.executable)
    from mlcycle_nb.development.environments.build import inspect

    found = inspect(python)
    packages = tuple(sorted(f"{p['name']}=={p['version']}" for p in found["packages"]))
    return compare(origin, _now(origin, packages, str(found["python"])), python)


def _environment(environments: Environments, origin: Provenance) -> Environment:
    """Return an environment with the lock of the run: its own, or one made from the lock."""
    lock = Lock.parse(origin.environment_lock)
    known = {environment.id: environment for environment in environments.all()}
    own = known.get(origin.environment)
    again = f"{origin.environment[:50]}-{lock.digest.removeprefix('sha256:')[:8]}"
    for candidate in (own, known.get(again)):
        if candidate is not None and candidate.usable and candidate.lock == origin.environment_lock:
            if environments.python(candidate.id).exists():
                return candidate
            return environments.rebuild(candidate.id).result()
    if again in known:
        return environments.rebuild(again).result()
    links = () if own is None else own.find_links
    made = environments.create(again, from_lock=lock, find_links=links, no_index=own is not None and own.no_index)
    return made.result()


def _now(origin: Provenance, packages: tuple[str, ...], python: str) -> Provenance:
    return replace(
        origin,
        packages=packages,
        lock_digest=text_digest("\n".join(packages)),
        python=python,
        platform=platform.platform(),
    )


def compare(origin: Provenance, now: Provenance, python: str, environment: str = "") -> Surroundings:
    """Return how `now` differs from `origin`, for a run that was, or is to be, run again with `python`."""
    told = [f"Python {origin.python} -> {now.python}"] if origin.python != now.python else []
    told += package_differences(pins(_others(origin.packages)), pins(_others(now.packages)))
    notes = []
    if origin.platform and origin.platform != now.platform:
        notes.append(f"it ran on {origin.platform}, and this is {now.platform}")
    if origin.not_reproducible:
        notes.append(f"it was marked not reproducible: {origin.not_reproducible[0]}")
    return Surroundings(python, now, environment, tuple(told), tuple(_changed_code(origin)), tuple(notes))


def _others(packages: tuple[str, ...]) -> list[str]:
    """Return the packages except this one, whose version is no part of what it runs."""
    return [text for text in packages if not text.startswith("mlcycle-nb==")]


def _changed_code(origin: Provenance) -> list[str]:
    """Return the modules of one's own that have changed since the run, or are gone."""
    changed = []
    for text, digest in origin.code.items():
        path = Path(text)
        if not path.is_file():
            changed.append(f"{text} (gone)")
        elif f"sha256:{sha256_file(path)}" != digest:
            changed.append(text)
    if origin.cwd and not os.path.isdir(origin.cwd):
        changed.append(f"{origin.cwd} (gone)")
    return changed
