"""The Envoy process of one environment: its port, its start, its adoption and its end."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

from mlcycle_nb.context import Context
from mlcycle_nb.errors import EngineError
from mlcycle_nb.files import write_atomically
from mlcycle_nb.serving.gateway.access_log import CURRENT, FLUSH_SECONDS
from mlcycle_nb.serving.gateway.admin import Admin
from mlcycle_nb.serving.gateway.binary import envoy_binary
from mlcycle_nb.serving.gateway.bootstrap import bootstrap
from mlcycle_nb.serving.gateway.files import GatewayFiles
from mlcycle_nb.serving.gateway.limits import GatewayLimits
from mlcycle_nb.supervisor.crash import crash_point
from mlcycle_nb.supervisor.sockets import socket_path

START_SECONDS = 15.0
PORT_SECONDS = 2.0
"""Longest wait for the port of an Envoy that has just died: it is held until the last of its threads has ended."""
ADDRESS = "127.0.0.1"


class EnvoyProcess:
    """Starts, adopts and stops Envoy for one environment."""

    def __init__(self, context: Context, environment: str, files: GatewayFiles, limits: GatewayLimits) -> None:
        self.context = context
        self.environment = environment
        self.files = files
        self.limits = limits
        self.name = f"gateway-{environment}"
        self.log = files.folder / "envoy.log"
        self.admin_socket = socket_path(context.home, self.name)
        self.admin = Admin(self.admin_socket)

    def alive(self) -> bool:
        """Return whether the process runs and answers."""
        return self.context.processes.get(self.name) is not None and self.admin.ready()

    def port(self) -> int | None:
        """Return the port once one is chosen."""
        try:
            return int(self.files.port_file.read_text())
        except FileNotFoundError:
            return None

    def known_port(self) -> int:
        """Return the port, which `choose_port` has chosen."""
        port = self.port()
        if port is None:
            raise EngineError("the gateway was never started", where=self.environment, remedy="deploy a model first")
        return port

    def choose_port(self) -> int:
        """Choose the port, which is then kept for the workspace's life.

        A port set as ``serving.gateway_port`` belongs to the first environment; the others follow it, one each.
        """
        fixed = self.context.settings.serving.gateway_port
        if fixed:
            known = self.context.settings.deployment.environments
            port = fixed + (known.index(self.environment) if self.environment in known else len(known))
        else:
            port = _free_port()
        write_atomically(self.files.port_file, str(port))
        return port

    def start(self, port: int) -> None:
        """Start Envoy on `port`, with the files as they are, and return when it listens."""
        self._stop_silent_one()
        if not _can_bind_within(port, PORT_SECONDS):
            raise EngineError(
                "another program holds the gateway's port",
                value=port,
                where=self.environment,
                remedy=f"stop that program, or remove {self.files.port_file} to choose another port",
            )
        configuration = bootstrap(
            port=port,
            admin_socket=self.admin_socket,
            routes_file=self.files.routes_file,
            clusters_file=self.files.clusters_file,
            access_log=self.files.folder / CURRENT,
            limits=self.limits,
        )
        write_atomically(self.files.bootstrap_file, json.dumps(configuration))
        self.context.processes.ensure(self.name, self._arguments(), log=self.log)
        crash_point("gateway.after_spawn")
        self.wait_until(self.admin.ready, START_SECONDS, "the gateway does not start")

    def stop(self) -> None:
        """Stop Envoy; connections that are open end."""
        self.context.processes.stop(self.name, grace_seconds=3.0)
        self.admin_socket.unlink(missing_ok=True)

    def wait_until(self, condition: Callable[[], bool], limit_seconds: float, problem: str) -> None:
        """Return once `condition` holds.

        Raises
        ------
        EngineError
            When the process ends, or the time is over; with the last lines of its log.
        """
        deadline = time.monotonic() + limit_seconds
        while not condition():
            if self.context.processes.get(self.name) is None:
                raise EngineError(f"{problem}: Envoy ended", where=self.last_words(), remedy=f"see {self.log}")
            if time.monotonic() > deadline:
                problem = f"{problem} within {limit_seconds:.0f} s"
                raise EngineError(problem, where=self.last_words(), remedy=f"see {self.log}")
            time.sleep(0.01)

    def last_words(self) -> str:
        """Return the end of Envoy's log, on one line."""
        return " ".join(_tail(self.log).split())[-400:]

    def _arguments(self) -> list[str]:
        return [
            str(envoy_binary()),
            "--config-path",
            str(self.files.bootstrap_file),
            "--concurrency",
            str(self.limits.threads),
            # Hot restart shares memory by a number that two workspaces could have in common.
            "--disable-hot-restart",
            "--file-flush-interval-msec",
            str(round(FLUSH_SECONDS * 1000)),
            "--log-level",
            "warning",
            # Otherwise each update of the keys logs that their filter is marked work in progress.
            "--component-log-level",
            "misc:error",
        ]

    def _stop_silent_one(self) -> None:
        if self.context.processes.get(self.name) is None:
            return
        try:  # it may be just starting, by another client's hand
            self.wait_until(self.admin.ready, 3.0, "the running gateway does not answer")
        except EngineError:
            self.context.processes.stop(self.name, grace_seconds=0.5)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


def _can_bind_within(port: int, limit_seconds: float) -> bool:
    deadline = time.monotonic() + limit_seconds
    while not _can_bind(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _can_bind(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return False
    return True


def _tail(path: Path, size: int = 4096) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - size))
            return stream.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
