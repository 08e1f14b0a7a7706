"""Times one-row requests to a real replica: started for this, asked over its Unix socket, stopped again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlcycle_nb.context import Context
from mlcycle_nb.errors import EngineError
from mlcycle_nb.files import write_atomically
from mlcycle_nb.serving.client import ServingClient
from mlcycle_nb.supervisor.sockets import socket_path

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mlcycle_nb.packages import Package

START_SECONDS = 60.0
WARM_UP_REQUESTS = 30


def time_requests(
    context: Context,
    package: Package,
    rows: npt.NDArray[np.generic],
    count: int,
    *,
    name: str,
    model: str,
    version: int,
    trusted_keys: Sequence[str],
) -> list[float]:
    """Return the milliseconds of `count` one-row requests, sent one after another by one client.

    Parameters
    ----------
    name : str
        Name of the replica in the process table; unique to this validation.
    """
    folder = context.folder("validations", name)
    socket = socket_path(context.home, name)
    config = {
        "package_path": str(package.path),
        "digest": package.digest,
        "model": model,
        "version": str(version),
        "environment": "validation",
        "socket": str(socket),
        "trusted_keys": list(trusted_keys),
    }
    write_atomically(folder / "replica.json", json.dumps(config), durable=False)
    argv = [sys.executable, "-m", "mlcycle_nb.serving.replica", "--config", str(folder / "replica.json")]
    log = folder / "replica.log"
    try:
        context.processes.ensure(name, argv, log=log)
        _wait_for_socket(context, name, socket, log)
        with ServingClient("http://localhost", "", model, socket=socket) as client:
            for index in range(WARM_UP_REQUESTS):
                client.predict(rows[index % len(rows)][None])
            times = []
            for index in range(count):
                row = rows[index % len(rows)][None]
                start = time.perf_counter()
                client.predict(row)
                times.append((time.perf_counter() - start) * 1000)
            return times
    finally:
        context.processes.stop(name)


def _wait_for_socket(context: Context, name: str, socket: Path, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if socket.exists():  # it appears only once the golden batch is answered
            return
        if context.processes.get(name) is None:
            raise EngineError("the replica ended before it was ready", where=str(log), remedy="read its log")
        time.sleep(0.02)
    raise EngineError(f"the replica was not ready within {START_SECONDS:g} s", where=str(log))
