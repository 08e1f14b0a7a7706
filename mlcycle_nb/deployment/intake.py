"""Starts the process that takes labels in an environment."""

from __future__ import annotations

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.sockets import intake_name, intake_socket
from mlcycle_nb.supervisor.identity import ProcessIdentity


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
