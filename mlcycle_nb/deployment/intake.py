"""Keeps the process that takes labels in an environment: started when it is missing, replaced when it is silent."""

from __future__ import annotations

import time

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.probe import answers
from mlcycle_nb.deployment.sockets import intake_name, intake_socket
from mlcycle_nb.supervisor.identity import ProcessIdentity

INTAKE_SECONDS = 1.0
"""Shortest time between two starts."""
CHECK_SECONDS = 2.0
SILENT_CHECKS = 3
STARTING_SECONDS = 30.0
"""For this long a process that has never answered is taken to be starting."""


def start_intake(context: Context, environment: str) -> ProcessIdentity:
    """Have it run; harmless when it does."""
    from mlcycle_nb.serving.intake import argv

    name, serving = intake_name(environment), context.settings.serving
    context.folder("labels"), context.folder("logs")
    command = argv(
        context.home,
        environment,
        intake_socket(context.home, environment),
        body_bytes=serving.body_limit_bytes,
        offset_clock=context.settings.workspace.clock == "offset",
    )
    return context.processes.ensure(name, command, cwd=context.home, log=context.home / "logs" / f"{name}.log")


class IntakeWatch:
    """Looks after the process of one environment.

    Parameters
    ----------
    context : Context
    environment : str
    """

    def __init__(self, context: Context, environment: str) -> None:
        self._context, self._environment = context, environment
        self._identity: ProcessIdentity | None = None
        self._started_at = -INTAKE_SECONDS
        self._seen_at = self._checked_at = 0.0
        self._answered = False
        self._silent = 0

    def missing(self) -> bool:
        """Whether nobody takes labels, or who does is silent, and it is time to start somebody."""
        now = time.monotonic()
        due = now - self._started_at >= INTAKE_SECONDS
        identity = self._context.processes.get(intake_name(self._environment))
        if identity is None:
            return due
        if identity != self._identity:
            self._identity, self._seen_at, self._answered, self._silent = identity, now, False, 0
        if now - self._checked_at >= CHECK_SECONDS:
            self._check(now)
        return due and self._silent >= SILENT_CHECKS

    def start(self) -> None:
        """Start the process, after the end of a silent one; harmless when it runs."""
        self._started_at = time.monotonic()
        if self._silent >= SILENT_CHECKS:  # what it said it took is on the disk
            self._context.processes.stop(intake_name(self._environment), grace_seconds=0.5)
            self._silent = 0
        start_intake(self._context, self._environment)

    def _check(self, now: float) -> None:
        self._checked_at = now
        if answers(intake_socket(self._context.home, self._environment)):
            self._answered, self._silent = True, 0
        elif self._answered or now - self._seen_at > STARTING_SECONDS:
            self._silent += 1
