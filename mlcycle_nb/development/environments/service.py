"""The verbs of environments: create, list, show, lock, rebuild, delete."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.context import Context
from mlcycle_nb.development.environments import kernels
from mlcycle_nb.development.environments.controller import environment_folder, process_name
from mlcycle_nb.development.environments.lock import Lock, differences, digest_of
from mlcycle_nb.development.environments.records import Environment, EnvironmentFolder
from mlcycle_nb.development.environments.requirements import (
    check_links,
    check_requirement,
    read_requirements,
    refuse_contradictions,
)
from mlcycle_nb.errors import Conflict, EngineError, InvalidInput, NotFound, Refused, did_you_mean
from mlcycle_nb.files import read_small_file
from mlcycle_nb.references import check_name

if TYPE_CHECKING:
    from mlcycle_nb.development.environments.handle import EnvironmentHandle

_SHOWN = 5
_LOCK_LIMIT_BYTES = 4 * 1024 * 1024


class Environments:
    """The isolated environments of one workspace.

    Parameters
    ----------
    context : Context
    referrers : callable
        Returns in words who refers to the environment of a name.
    """

    def __init__(self, context: Context, referrers: Callable[[str], Sequence[str]]) -> None:
        self._context = context
        self._referrers = referrers

    @property
    def home(self) -> Path:
        """The workspace folder."""
        return self._context.home

    # -- read ------------------------------------------------------------------------------------------------

    def all(self) -> list[Environment]:
        """Return all environments, newest first."""
        return self._context.store.find(Environment)

    def get(self, name: str) -> Environment:
        """Return an environment by its name."""
        found = self._context.store.maybe(Environment, check_name(name, "environment name"))
        if found is not None:
            return found
        known = [environment.id for environment in self.all()]
        listed = f"known: {', '.join(known[:10])}" if known else "there is none yet; %environment create makes one"
        raise NotFound("there is no such environment", value=name, remedy=did_you_mean(name, known) + listed)

    def usable(self, name: str) -> Environment:
        """Return an environment in which something can run now.

        Raises
        ------
        Refused
            When it is being built, or could not be.
        """
        found = self.get(name)
        if not found.usable:
            remedy = f"%environment rebuild {name}" if found.phase == "failed" else f"%environment show {name} --wait"
            raise Refused(
                f"environment {name} is {found.phase}: {found.failure or 'it is not ready yet'}", remedy=remedy
            )
        if not self.python(name).exists():
            raise Refused(f"the folder of environment {name} is gone", remedy=f"%environment rebuild {name}")
        return found

    def python(self, name: str) -> Path:
        """Return the interpreter of an environment: a place that stays the same when it is rebuilt."""
        return self.folder(name).python

    def folder(self, name: str) -> EnvironmentFolder:
        """Return the folder of an environment."""
        return environment_folder(self._context, name)

    def lock(self, name: str) -> Lock:
        """Return what an environment holds, exactly, as recorded when it was built."""
        found = self.get(name)
        if not found.lock:
            raise Refused(f"environment {name} is {found.phase} and has no lock yet")
        return Lock.parse(found.lock)

    def changes(self, name: str) -> list[str]:
        """Return in words how the environment differs from its lock now, as when somebody used pip in it."""
        from mlcycle_nb.development.environments.build import inspect

        return differences(self.lock(name), Lock.of(inspect(str(self.python(name)))))

    def step(self, name: str) -> str:
        """Return what a build does now."""
        from json import loads

        record = self.get(name)
        try:
            return str(loads(self.folder(name).progress(record.generation).read_text())["step"])
        except (OSError, ValueError, KeyError):
            return "waiting to begin"

    def log(self, name: str, lines: int = 60) -> str:
        """Return the end of what the builds printed."""
        try:
            text = self.folder(self.get(name).id).log.read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    # -- write -----------------------------------------------------------------------------------------------

    def create(
        self,
        name: str,
        packages: Sequence[str] = (),
        *,
        requirements: str | Path | None = None,
        from_lock: str | Path | Lock | None = None,
        inherit: bool = False,
        find_links: Sequence[str] = (),
        no_index: bool = False,
    ) -> EnvironmentHandle:
        """Make an environment; it is built outside this process, and ready when its handle has been waited for.

        Parameters
        ----------
        name : str
            1 to 63 of ``a-z``, ``0-9``, ``_`` and ``-``.
        packages : sequence of str
            Requirements such as ``numpy==2.1``, or paths of wheels.
        requirements : path-like, optional
            A file of requirements, one a line.
        from_lock : path-like or Lock, optional
            A lock, or what ``pip freeze`` printed; what is installed is compared with it.
        inherit : bool
            Lay the environment over this one: what is installed here can be imported, unless it has its own.
        find_links : sequence of str
            Folders or pages with wheels.
        no_index : bool
            Use nothing but `find_links`.

        Raises
        ------
        InvalidInput
            For a bad name or requirement, a missing file, two versions of one package, or a lock of another Python.
        Conflict
            When there is an environment of this name.
        """
        check_name(name, "environment name")
        given = [source for source in (requirements, from_lock, packages or None) if source is not None]
        if len(given) > 1:
            raise InvalidInput("give packages, a requirements file or a lock, and only one of them", where=name)
        if not given and not inherit:
            raise InvalidInput(
                "nothing says what the environment holds",
                where=name,
                remedy="give --package, --requirements or --from-lock; --inherit alone lays it over this environment",
            )
        lock = _read_lock(from_lock) if from_lock is not None else None
        wanted = [] if requirements is None else read_requirements(Path(requirements).expanduser())
        wanted += [check_requirement(text) for text in packages]
        refuse_contradictions(wanted)
        record = Environment(
            id=name,
            phase="creating",
            created_at=self._context.clock.now(),
            requirements=tuple(wanted),
            wanted_lock="" if lock is None else lock,
            inherit=inherit or (lock is not None and bool(Lock.parse(lock).inherited)),
            find_links=check_links(find_links),
            no_index=no_index,
            base=sys.executable,
            kernels_folder=str(kernels.kernels_folder()),
        )
        if self._context.store.maybe(Environment, name) is not None:
            raise Conflict(
                f"there is an environment {name} already",
                remedy=f"%environment show {name}; %environment delete {name} makes room for another",
            )
        self._clear(name)  # what a deletion that was killed has left
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            detail = {"requirements": wanted, "lock": digest_of(lock) if lock else ""}
            transaction.insert(record, event="environment.created", detail=detail)
        self._context.ensure_supervisor()
        return self.attach(name)

    def rebuild(self, name: str) -> EnvironmentHandle:
        """Build an environment again, from its lock when it has one; meanwhile the build in use stays."""
        record = self.get(name)
        if not record.active:
            with self._context.store.transaction(actor=self._context.actor) as transaction:
                current = transaction.get(Environment, name)
                again = replace(
                    current,
                    phase="rebuilding" if current.usable else "creating",
                    wanted_lock=current.lock or current.wanted_lock,
                    generation=current.generation + 1,
                    attempt=0,
                    failure="",
                    base=current.base if Path(current.base).exists() else sys.executable,
                )
                transaction.update(again, event="environment.rebuild", detail={"lock": current.lock_digest})
        self._context.ensure_supervisor()
        return self.attach(name)

    def attach(self, name: str) -> EnvironmentHandle:
        """Return the handle of an environment."""
        from mlcycle_nb.development.environments.handle import EnvironmentHandle

        return EnvironmentHandle(self, self.get(name).id, sustain=self._context.revive_supervisor)

    def delete(self, name: str, *, reason: str = "") -> None:
        """Delete an environment with its kernel; what was locked stays in the runs that used it.

        Raises
        ------
        Refused
            When a run, a version or a job refers to it, naming them.
        """
        self.get(name)
        users = list(self._referrers(name))
        if users:
            more = f" and {len(users) - _SHOWN} more" if len(users) > _SHOWN else ""
            raise Refused(
                f"environment {name} is not deleted, because it is referred to by {', '.join(users[:_SHOWN])}{more}",
                remedy="delete these first",
            )
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            record = transaction.get(Environment, name)
            transaction.delete(record, event="environment.deleted", detail={"lock": record.lock_digest}, reason=reason)
        for attempt in (record.attempt, record.attempt + 1):  # the supervisor may have begun one in this instant
            self._context.processes.stop(process_name(record, attempt), grace_seconds=0.0)
        if record.kernel:
            kernels.remove_kernel(Path(record.kernels_folder), record.kernel, workspace_id=self._context.workspace_id)
        self._clear(name)

    # -- parts -------------------------------------------------------------------------------------------------

    def _clear(self, name: str) -> None:
        try:
            shutil.rmtree(self.folder(name).path)
        except FileNotFoundError:
            return
        except OSError as failure:
            raise EngineError(
                f"the folder of environment {name} cannot be removed: {failure.strerror}", value=str(failure.filename)
            ) from failure


def _read_lock(source: str | Path | Lock) -> str:
    if isinstance(source, Lock):
        text, where = str(source), "lock"
    else:
        path = Path(source).expanduser()
        if not path.is_file():
            raise InvalidInput("there is no such lock file", value=str(path), where="--from-lock")
        text, where = read_small_file(path, limit=_LOCK_LIMIT_BYTES), path.name
    lock = Lock.parse(text, where=where)
    here = ".".join(map(str, sys.version_info[:2]))
    if lock.python and not lock.python.startswith(f"{here}."):
        raise InvalidInput(
            f"the lock is of Python {lock.python}, and this is Python {here}",
            where=where,
            remedy="run it from a kernel of that Python",
        )
    return text


def facts(environments: Environments, record: Environment) -> list[tuple[str, Any]]:
    """Return what there is to show of an environment."""
    lock = Lock.parse(record.lock) if record.lock else None
    shown: list[tuple[str, Any]] = [("phase", record.phase)]
    if record.active:
        shown.append(("step", environments.step(record.id)))
    if record.failure:
        shown.append(("failure", record.failure))
    shown.append(("asked for", ", ".join(record.requirements) or ("a lock" if record.wanted_lock else "nothing more")))
    if lock is not None:
        shown.append(("holds", ", ".join(pin.requirement for pin in lock.own) or "nothing of its own"))
        if lock.inherited:
            shown.append(("inherits", f"{len(lock.inherited)} packages of the environment it was made in"))
        shown += [("lock", record.lock_digest), ("python", f"{record.python}, {environments.python(record.id)}")]
        shown.append(("kernel", record.kernel or "none: ipykernel is not among its packages"))
        shown.append(("trains", "yes" if not record.missing else f"no: {', '.join(record.missing)} cannot be imported"))
    return shown
