"""One replica: a process that answers for one package on a Unix socket.

``python -m mlcycle_nb.serving.replica --config FILE.json``. The socket appears only after the golden batch is answered
correctly, so whoever can connect finds a replica that is ready. SIGTERM drains: not ready and no new connections, then
the requests in hand are answered, then the prediction log is flushed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import uvicorn

from mlcycle_nb.errors import Conflict, MLCycleError
from mlcycle_nb.files import private_folder
from mlcycle_nb.packages import code_permit
from mlcycle_nb.packages.package import open_package
from mlcycle_nb.packages.runtime import check_golden, load_runtime
from mlcycle_nb.serving.app import ReplicaApp
from mlcycle_nb.serving.guard import GuardedProtocol, sweep
from mlcycle_nb.serving.memory import give_back, use_one_arena
from mlcycle_nb.serving.prediction_log import PredictionLogWriter
from mlcycle_nb.serving.replica_config import ReplicaConfig

if TYPE_CHECKING:
    from mlcycle_nb.packages.formats import Runtime
    from mlcycle_nb.packages.package import Package

REFUSED_EXIT = 3
"""Exit code of a replica whose package or configuration is refused; starting it again cannot help."""
BACKLOG = 1024
SWITCH_SECONDS = 0.0002
"""How long the log thread may keep the interpreter from the event loop; Python's default is 5 ms, felt as latency."""


def build_app(config: ReplicaConfig) -> ReplicaApp:
    """Load the package, prove it on its golden batch, and return the application that serves it."""
    # The model is loaded, warmed and always run in one and the same thread.
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
    loading = executor.submit(_load, config)
    log = None
    if config.prediction_log is not None:
        log = PredictionLogWriter(
            config.prediction_log,
            config.environment,
            config.model,
            int(config.version),
            sample_rate=config.sample_rate,
        )
        # Meanwhile the model loads: most of both is reading files.
        import pyarrow  # noqa: F401
    package, runtime = loading.result()
    app = ReplicaApp(
        package,
        runtime,
        model=config.model,
        version=config.version,
        environment=config.environment,
        executor=executor,
        limits=config.limits,
        log=log,
    )
    inputs, outputs = package.golden()
    batch = inputs[package.signature.inputs[0].name]
    executor.submit(app.batcher.warm, batch).result()
    if log is not None:
        log.warm(batch, outputs)
    return app


def _load(config: ReplicaConfig) -> tuple[Package, Runtime]:
    package = open_package(config.package_path, config.digest)
    runtime = load_runtime(package, threads=config.threads, trusted_keys=config.trusted_keys)
    check_golden(package, runtime)
    return package, runtime


class ReplicaServer(uvicorn.Server):
    """Uvicorn with a drain before it stops, and time limits on requests that arrive slowly."""

    def __init__(self, config: uvicorn.Config, app: ReplicaApp) -> None:
        super().__init__(config)
        self._app = app
        self.on_drain: Callable[[], None] = lambda: None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop."""
        # A number beyond float32 is refused with its place; numpy's own warning about it would tell nobody anything.
        np.seterr(over="ignore")
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; a second signal stops at once."""
        if self._app.draining:
            self.should_exit = True
            return
        self._app.draining = True
        asyncio.get_event_loop().call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self.on_drain()
        asyncio.get_running_loop().call_later(self._app.limits.drain_seconds, self._stop)

    def _stop(self) -> None:
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Look after slow connections a few times a second."""
        if counter % 5 == 0:
            sweep(self.server_state.connections, asyncio.get_running_loop().time())
        return await super().on_tick(counter)


def make_server(app: ReplicaApp, **options: Any) -> ReplicaServer:
    """Return the server of an application; `options` are uvicorn's, such as ``host`` and ``port`` in a test."""
    limits = app.limits
    protocol = type(
        "Protocol", (GuardedProtocol,), {"header_seconds": limits.header_seconds, "body_seconds": limits.body_seconds}
    )
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, int(limits.stop_seconds)),
        **options,
    )
    return ReplicaServer(config, app)


def bind(path: Path) -> tuple[socket.socket, Path]:
    """Return a bound socket that nobody else may open, under a name that is not yet the final one."""
    private_folder(path.parent)
    if path.exists() and _answers(path):
        raise Conflict("another replica listens on this socket", value=str(path))
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(staged))
    finally:
        os.umask(before)
    return listener, staged


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def serve(config: ReplicaConfig) -> None:
    """Serve until SIGTERM."""
    app = build_app(config)
    listener, staged = bind(config.socket)
    identity = staged.stat().st_ino
    server = make_server(app)

    def withdraw() -> None:
        # Before the drain, so that nobody connects any more and then finds the connection never accepted.
        try:
            if config.socket.stat().st_ino == identity:
                config.socket.unlink()
        except FileNotFoundError:
            pass

    server.on_drain = withdraw
    # What start-up made stays for good: later collections need not walk it.
    gc.collect()
    gc.freeze()
    give_back()
    sys.setswitchinterval(SWITCH_SECONDS)
    listener.listen(BACKLOG)
    staged.rename(config.socket)
    try:
        asyncio.run(server.serve(sockets=[listener]))
    finally:
        withdraw()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one replica; say in one line why it cannot."""
    parser = argparse.ArgumentParser(prog="mlcycle_nb.serving.replica", description="Serve one model package.")
    parser.add_argument("--config", type=Path, required=True, help="JSON file that says what to serve, and where")
    options = parser.parse_args(arguments)
    code_permit.grant()
    use_one_arena()
    try:
        serve(ReplicaConfig.read(options.config))
    except MLCycleError as failure:
        print(failure, file=sys.stderr, flush=True)
        return REFUSED_EXIT
    return 0


if __name__ == "__main__":
    sys.exit(main())
