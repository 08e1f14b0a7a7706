"""One replica as the supervisor sees it: start it, ask how it is, have it answer the golden batch, stop it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.probe import answers
from mlcycle_nb.deployment.records import Revision
from mlcycle_nb.deployment.runtimes import interpreter
from mlcycle_nb.deployment.sockets import process_name, replica_socket
from mlcycle_nb.errors import EngineError, MLCycleError
from mlcycle_nb.files import write_atomically
from mlcycle_nb.packages import PackageStore
from mlcycle_nb.supervisor.identity import ProcessIdentity

CHECK_EVERY_SECONDS = 2.0
SILENT_CHECKS = 3
STOP_GRACE_SECONDS = 35.0
CRASHES_TOLERATED = 5
STEADY_SECONDS = 10.0
SUSPENDED_SECONDS = 5.0
"""A process that somebody has suspended is ended after this, whatever it was about to do."""
LAST_RETRY_SECONDS = 30.0
REFUSED_EXIT = 3
"""Exit code of a replica whose package is refused: starting it again cannot help."""
SELF_TEST_HOST = "golden-shadow"
"""Marks the golden batch as a copy, so that it never counts as a prediction that was served."""


@dataclass(slots=True)
class ReplicaMemory:
    """What is remembered of one replica between turns; a new supervisor learns it again."""

    identity: ProcessIdentity | None = None
    started_at: float = 0.0
    checked_at: float = 0.0
    golden: bool = False  # this very process has answered the golden batch
    silent: int = 0  # checks in a row without an answer
    crashes: int = 0  # in a row, without a steady time between
    retry_at: float = 0.0
    restarts: int = 0
    refused: str = ""
    unstarted: str = ""  # why there is no process
    suspended_at: float | None = None  # since when the process is seen suspended

    @property
    def ready(self) -> bool:
        """Whether it answers, and answers rightly."""
        return self.identity is not None and self.golden and self.silent == 0


class Replica:
    """One replica of a revision.

    Parameters
    ----------
    context : Context
        The workspace.
    revision : Revision
        What it serves.
    index : int
        Which of the replicas it is, from 0.
    memory : ReplicaMemory
        What is remembered of it; changed in place.
    """

    def __init__(self, context: Context, revision: Revision, index: int, memory: ReplicaMemory) -> None:
        self.context = context
        self.revision = revision
        self.index = index
        self.memory = memory
        place = (revision.environment, revision.model, revision.model_version, index)
        self.name = process_name(*place)
        self.socket = replica_socket(context.home, *place)
        self.log = context.home / "logs" / f"{self.name}.log"

    def look(self) -> None:
        """Bring the memory up to date: the process, then its answers."""
        memory, now = self.memory, time.monotonic()
        identity = self.context.processes.get(self.name)
        if identity != memory.identity:
            if memory.identity is not None:
                self._note_end(now)
            memory.identity = identity
            memory.golden, memory.silent, memory.checked_at = False, 0, 0.0
            memory.started_at, memory.suspended_at = now, None
        if identity is None:
            return
        if memory.golden and now - memory.checked_at < CHECK_EVERY_SECONDS:
            return
        memory.checked_at = now
        memory.suspended_at = (memory.suspended_at or now) if identity.suspended() else None
        if memory.suspended_at is not None:
            # One that starts is not asked yet, and how long that takes nobody knows; but this one never will.
            memory.silent = SILENT_CHECKS if now - memory.suspended_at >= SUSPENDED_SECONDS else 1
        elif not memory.golden:
            self._try_golden()
        elif self._answers():
            memory.silent = 0
            if now - memory.started_at > STEADY_SECONDS:
                memory.crashes = 0
        else:
            memory.silent += 1

    def start(self) -> None:
        """Start the process; harmless when it runs. A program that is not there counts as a crash."""
        configuration = self.context.folder("replicas") / f"{self.name}.json"
        write_atomically(configuration, json.dumps(self._configuration()), durable=False)
        self.context.folder("logs")
        python = interpreter(self.context, self.revision.runtime)
        argv = [python, "-m", "mlcycle_nb.serving.replica", "--config", str(configuration)]
        # The workspace's settings file must not matter to a replica, and neither must the folder it was started from.
        self.memory.started_at = time.monotonic()
        try:
            self.memory.identity = self.context.processes.ensure(self.name, argv, cwd=self.context.home, log=self.log)
        except EngineError as failure:  # an environment that somebody deleted; the other replicas are looked at still
            self._note_crash(failure.problem)
            return
        self.memory.unstarted = ""
        self.memory.golden, self.memory.silent, self.memory.checked_at = False, 0, 0.0

    def stop(self, grace_seconds: float = STOP_GRACE_SECONDS) -> None:
        """End the process: it answers what it has, then goes."""
        self.memory.identity = None  # an end on purpose is no crash
        self.context.processes.stop(self.name, grace_seconds)
        self.socket.unlink(missing_ok=True)

    def may_start(self) -> bool:
        """Whether the time to wait after a crash is over."""
        return not self.memory.refused and time.monotonic() >= self.memory.retry_at

    def last_words(self) -> str:
        """Return why it could not be started, or the last line of its log."""
        if self.memory.unstarted:
            return self.memory.unstarted
        try:
            lines = self.log.read_text(errors="replace")[-4000:].strip().splitlines()
        except FileNotFoundError:
            return ""
        return lines[-1][:300] if lines else ""

    # -- parts -----------------------------------------------------------------------------------------------

    def _note_end(self, now: float) -> None:
        memory = self.memory
        if now - memory.started_at > STEADY_SECONDS and memory.golden:
            memory.crashes = 0
        self._note_crash()
        if self.context.processes.exit_code(self.name) == REFUSED_EXIT:
            memory.refused = self.last_words() or "the replica refused its package"

    def _note_crash(self, unstarted: str = "") -> None:
        memory = self.memory
        memory.unstarted = unstarted
        memory.restarts += 1
        memory.crashes += 1
        # At once after the first crash; then each wait is twice the one before.
        wait = 0.0 if memory.crashes <= 1 else min(0.5 * 2 ** (memory.crashes - 2), LAST_RETRY_SECONDS)
        memory.retry_at = time.monotonic() + wait

    def _configuration(self) -> dict[str, object]:
        from mlcycle_nb.packages.signing import public_key_hex
        from mlcycle_nb.store.keys import signing_key

        revision, serving = self.revision, self.context.settings.serving
        packages = PackageStore(self.context.folder("packages"))
        return {
            "package_path": str(packages.path_of(revision.digest)),
            "digest": revision.digest,
            "model": revision.model,
            "version": str(revision.model_version),
            "environment": revision.environment,
            "socket": str(self.socket),
            "prediction_log": str(self.context.folder("predictions")),
            "threads": serving.replica_threads,
            "trusted_keys": [public_key_hex(signing_key(self.context.workspace_id))],
            "limits": {"body_bytes": serving.body_limit_bytes},
        }

    def _answers(self) -> bool:
        return answers(self.socket)

    def _try_golden(self) -> None:
        if not self.socket.exists() or not self._answers():
            return  # it is still starting; a process that ends is noticed by itself
        try:
            problem = golden_answer(self.context, self.revision, self.socket)
        except MLCycleError as failure:
            if not self._answers():
                return  # it ended or hangs meanwhile: no answer is not a wrong one
            problem = str(failure)
        if problem:
            self.memory.refused = f"the golden batch is answered wrongly: {problem}"
        else:
            self.memory.golden = True


def golden_answer(context: Context, revision: Revision, path: Path) -> str:
    """Ask a replica for its package's golden batch over its socket; return what is wrong, or the empty text."""
    import numpy as np

    from mlcycle_nb.packages.golden import difference
    from mlcycle_nb.serving.client import ServingClient

    package = PackageStore(context.folder("packages")).open(revision.digest)
    inputs, expected = package.golden()
    with ServingClient(f"http://{SELF_TEST_HOST}", "", revision.model, socket=path) as client:
        answer = client.predict(next(iter(inputs.values())))
    given = {"label": answer.labels, "probabilities": answer.probabilities, "value": answer.values}
    found = {name: np.asarray(array) for name, array in given.items() if array is not None}
    problem, _ = difference(expected, found, package.manifest.golden)
    return problem
