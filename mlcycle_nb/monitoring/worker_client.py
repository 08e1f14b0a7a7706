"""Asks the workspace's worker; starts it when it is not there, and ends it when it does not answer."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from typing import Any

from mlcycle_nb.context import Context
from mlcycle_nb.errors import EngineError
from mlcycle_nb.monitoring.worker_socket import LINE_BYTES, read_line
from mlcycle_nb.supervisor.sockets import socket_path

PROCESS = "monitor-worker"
START_SECONDS = 60.0
ANSWER_SECONDS = 180.0
_TRY_SECONDS = 0.05


class WorkerClient:
    """The one way to the worker.

    Parameters
    ----------
    context : Context
        The workspace.
    answer_seconds : float
        A worker that takes longer for one window is ended; the next request starts another.
    """

    def __init__(self, context: Context, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._context = context
        self._answer_seconds = answer_seconds
        self._starting = threading.Lock()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the worker's answer.

        Raises
        ------
        EngineError
            When the worker does not start, refuses, or does not answer in time.
        """
        connection = self._connected()
        with connection:
            connection.settimeout(self._answer_seconds)
            try:
                connection.sendall(json.dumps(request, allow_nan=False).encode() + b"\n")
                reply: dict[str, Any] = json.loads(read_line(connection, LINE_BYTES))
            except (OSError, EngineError) as failure:
                if isinstance(failure, TimeoutError):
                    self.stop()
                raise EngineError(
                    "the monitoring worker gave no answer", where=str(self._log), remedy="it is started again"
                ) from failure
        if not reply.pop("ok"):
            raise EngineError(f"the window cannot be judged: {reply['error']}", where=str(self._log))
        return reply

    def stop(self) -> None:
        """End the worker."""
        self._context.processes.stop(PROCESS)

    @property
    def _log(self) -> Any:
        return self._context.folder("logs") / "monitor-worker.log"

    def _connected(self) -> socket.socket:
        path = socket_path(self._context.home, PROCESS)
        argv = [sys.executable, "-m", "mlcycle_nb.monitoring.worker"]
        argv += ["--home", str(self._context.home), "--socket", str(path)]
        deadline = time.monotonic() + START_SECONDS
        with self._starting:
            while True:
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                try:
                    connection.connect(str(path))
                    return connection
                except OSError:
                    connection.close()  # not there yet, or gone
                self._context.processes.ensure(PROCESS, argv, log=self._log)
                if time.monotonic() >= deadline:
                    raise EngineError("the monitoring worker does not start", where=str(self._log))
                time.sleep(_TRY_SECONDS)
