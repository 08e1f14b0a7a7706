"""The supervisor's part: start builds, start them again when they were killed, put what they built to use."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from mlcycle_nb.context import Context
from mlcycle_nb.development.environments import kernels
from mlcycle_nb.development.environments.lock import digest_of
from mlcycle_nb.development.environments.records import Environment, EnvironmentFolder
from mlcycle_nb.files import private_folder, write_atomically
from mlcycle_nb.store import Record
from mlcycle_nb.supervisor.controller import Controller
from mlcycle_nb.supervisor.crash import crash_point

MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class BuildObservation:
    """What can be seen of a build."""

    alive: bool = False
    outcome: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Build:
    """Start attempt number `attempt`."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Put to use what was built, or say why it could not be."""

    outcome: dict[str, Any]


Action = Build | Finish


def build(context: Context) -> list[Controller]:
    """Return the controller of environments."""
    return [EnvironmentController(context)]


def environment_folder(context: Context, name: str) -> EnvironmentFolder:
    """Return the folder of an environment."""
    return EnvironmentFolder(context.folder("environments") / name)


def next_action(record: Environment, observation: BuildObservation) -> Action | None:
    """Return what to do next: a pure function."""
    if observation.outcome is not None:
        return Finish(observation.outcome)
    if observation.alive:
        return None
    if record.attempt < MAX_ATTEMPTS:
        return Build(record.attempt + 1)
    return Finish({"failure": f"the build was killed {MAX_ATTEMPTS} times"})


class EnvironmentController:
    """Brings environments to ready or failed."""

    record_type: type[Record] = Environment

    def __init__(self, context: Context) -> None:
        self._context = context

    def observe(self, record: Environment) -> BuildObservation:
        """Look for the process first, then for what it left."""
        folder = environment_folder(self._context, record.id)
        alive = self._context.processes.get(process_name(record, record.attempt)) is not None
        try:
            outcome = json.loads(folder.outcome(record.generation).read_text())
        except FileNotFoundError:
            outcome = None
        return BuildObservation(alive, outcome)

    def next_action(self, record: Environment, observation: BuildObservation, now: datetime) -> Action | None:
        """Delegate to the pure function."""
        return next_action(record, observation)

    def act(self, action: Action, record: Environment, observation: BuildObservation) -> None:
        """Do one action."""
        match action:
            case Build(attempt):
                self._build(record, attempt)
            case Finish(outcome):
                self._finish(record, outcome)

    # -- actions -----------------------------------------------------------------------------------------------

    def _build(self, record: Environment, attempt: int) -> None:
        folder = environment_folder(self._context, record.id)
        private_folder(folder.path)
        if record.attempt:
            # pip and uv may outlive the builder that was killed; two must never write into one folder
            self._context.processes.stop(process_name(record, record.attempt), grace_seconds=0.0)
        write_atomically(folder.request(record.generation), json.dumps(_request(record, folder)))
        argv = [record.base, "-m", "mlcycle_nb.development.environments.build", str(folder.request(record.generation))]
        self._context.processes.ensure(process_name(record, attempt), argv, cwd=folder.path, log=folder.log)
        crash_point("environment.after_start")
        self._store(replace(record, attempt=attempt), "environment.build_started", {"attempt": attempt})

    def _finish(self, record: Environment, outcome: dict[str, Any]) -> None:
        self._context.processes.stop(process_name(record, record.attempt), grace_seconds=0.0)
        if "failure" in outcome:
            self._fail(record, str(outcome["failure"]))
        else:
            self._use(record, outcome)
        self._sweep(record.id)

    def _use(self, record: Environment, outcome: dict[str, Any]) -> None:
        folder, now = environment_folder(self._context, record.id), self._context.clock.now()
        absent = set(outcome["absent"])
        kernel = "" if "ipykernel" in absent else kernels.kernel_name(self._context.workspace_id, record.id)
        link = folder.path / ".current"
        link.unlink(missing_ok=True)
        link.symlink_to(str(record.generation), target_is_directory=True)
        os.replace(link, folder.current)
        crash_point("environment.after_link")
        if kernel:
            kernels.install_kernel(
                Path(record.kernels_folder),
                kernel,
                environment=record.id,
                python=folder.python,
                home=self._context.home,
                workspace_id=self._context.workspace_id,
            )
        ready = replace(
            record,
            phase="ready",
            ready_generation=record.generation,
            attempt=0,
            lock=outcome["lock"],
            lock_digest=digest_of(outcome["lock"]),
            python=outcome["python"],
            missing=tuple(name for name in outcome["absent"] if name != "ipykernel"),
            kernel=kernel,
            failure="",
            ready_at=now,
        )
        self._store(ready, "environment.ready", {"lock": ready.lock_digest, "generation": ready.generation})

    def _fail(self, record: Environment, failure: str) -> None:
        """Keep what was usable before: a rebuild that fails takes nothing away."""
        phase = "ready" if record.usable else "failed"
        told = f"the rebuild failed, and what was there is kept: {failure}" if record.usable else failure
        failed = replace(record, phase=phase, attempt=0, failure=told)
        self._store(failed, "environment.failed", {"failure": failure})

    # -- parts -------------------------------------------------------------------------------------------------

    def _sweep(self, name: str) -> None:
        """Remove builds that are not in use, and their documents."""
        record = self._context.store.maybe(Environment, name)
        folder = environment_folder(self._context, name)
        if record is None or record.active:
            return
        for path in folder.path.iterdir():
            number = path.name.rpartition("-")[2].removesuffix(".json")
            if not number.isdigit() or int(number) == record.ready_generation:
                continue
            if path.is_dir():  # whoever runs in it came through the link, and finds the same files in the new one
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink(missing_ok=True)

    def _store(self, record: Environment, event: str, detail: dict[str, Any]) -> None:
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            transaction.update(record, event=event, detail=detail)


def process_name(record: Environment, attempt: int) -> str:
    """Return the name of a build in the process table."""
    return f"environment-{record.id}-{record.generation}-{attempt}"


def _request(record: Environment, folder: EnvironmentFolder) -> dict[str, Any]:
    from mlcycle_nb.development.environments.lock import Lock

    locked = [pin.requirement for pin in Lock.parse(record.wanted_lock).own] if record.wanted_lock else []
    return {
        "folder": str(folder.build(record.generation)),
        "requirements": locked or list(record.requirements),
        "wanted_lock": record.wanted_lock,
        "inherit": record.inherit,
        "find_links": list(record.find_links),
        "no_index": record.no_index,
        "progress": str(folder.progress(record.generation)),
        "outcome": str(folder.outcome(record.generation)),
    }
