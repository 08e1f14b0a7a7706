"""The HTTP server of replicas and of the label desk: uvicorn on a Unix socket, with a drain before it stops."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import uvicorn

from mlcycle_nb.errors import Conflict
from mlcycle_nb.files import private_folder
from mlcycle_nb.serving.guard import GuardedProtocol, sweep
from mlcycle_nb.serving.limits import Limits

BACKLOG = 1024


class Application(Protocol):
    """An ASGI application that knows its bounds, and refuses new work once it drains."""

    limits: Limits
    draining: bool

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Answer one request, or follow the server's life."""


class ReplicaServer(uvicorn.Server):
    """Uvicorn with a drain before it stops, and time limits on requests that arrive slowly."""

    def __init__(self, config: uvicorn.Config, app: Application) -> None:
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


def make_server(app: Application, **options: Any) -> ReplicaServer:
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


def run(app: Application, path: Path, *, on_ready: Callable[[], None] = lambda: None) -> None:
    """Serve an application on a Unix socket until SIGTERM; the socket has its name once it listens."""
    listener, staged = bind(path)
    identity = staged.stat().st_ino
    server = make_server(app)

    def withdraw() -> None:
        # Before the drain, so that nobody connects any more and then finds the connection never accepted.
        try:
            if path.stat().st_ino == identity:
                path.unlink()
        except FileNotFoundError:
            pass

    server.on_drain = withdraw
    on_ready()
    listener.listen(BACKLOG)
    staged.rename(path)
    try:
        asyncio.run(server.serve(sockets=[listener]))
    finally:
        withdraw()
