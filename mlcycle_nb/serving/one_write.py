"""An answer's head and body leave in one write, so that kill -9 of a replica cannot cut between them.

Uvicorn writes the head, then the body. A replica killed in between has begun an answer that it never ends; a gateway
that has passed the head on cannot retry elsewhere, and one request of some 8,600 failed over six kills.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD = b"HTTP/1.1 "
_INTERIM = b"HTTP/1.1 1"


class HeldHead:
    """A transport that keeps an answer's head until the next write."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write, or keep a head that has no body yet."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEAD) and data.endswith(b"\r\n\r\n") and not data.startswith(_INTERIM):
            self._head = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Write a head that no body followed."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        self._transport.close()


class OneWriteProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP/1.1 protocol with answers that leave in one write."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Put the holding transport between uvicorn and the socket."""
        super().connection_made(HeldHead(transport))

    def on_response_complete(self) -> None:
        """Flush the head of an answer without a body, such as one to HEAD."""
        self.transport.flush()
        super().on_response_complete()
