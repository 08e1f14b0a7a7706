"""A small replica for the gateway's tests: answers who it is, and writes what it saw.

``python upstream.py SOCKET VERSION [LOG]``. The request body may ask for more: ``{"sleep": 0.2}``, ``{"status": 500}``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import uvicorn

from mlcycle_nb.serving.one_write import OneWriteProtocol

Scope = dict[str, Any]


class Upstream:
    """ASGI application that echoes the request's head."""

    def __init__(self, version: str, log: Path | None) -> None:
        self.version = version
        self.log = log

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["path"] == "/v2/health/ready":
            await self._answer(send, 200, b"", [])
            return
        wishes = json.loads(body) if body.startswith(b"{") else {}
        await asyncio.sleep(wishes.get("sleep", 0))
        headers = [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]]
        seen = {"version": self.version, "path": scope["path"], "method": scope["method"], "headers": headers}
        if self.log is not None:
            with self.log.open("a") as stream:
                stream.write(json.dumps(seen) + "\n")
        extra = [(b"x-model-version", self.version.encode())]
        await self._answer(send, wishes.get("status", 200), json.dumps({**seen, "bytes": len(body)}).encode(), extra)

    @staticmethod
    async def _lifespan(receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    @staticmethod
    async def _answer(send: Any, status: int, body: bytes, extra: list[tuple[bytes, bytes]]) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *extra]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    socket, version = sys.argv[1:3]
    log = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    uvicorn.run(Upstream(version, log), uds=socket, http=OneWriteProtocol, log_level="warning", access_log=False)
