"""The HTTP/1.1 protocol of a replica: uvicorn's, bounded in header count, header bytes, path and time."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from mlcycle_nb.serving.one_write import OneWriteProtocol
from mlcycle_nb.serving.refusals import CONTENT_TYPE, Problem

HEADER_COUNT = 100
HEADER_BYTES = 65_536
URL_BYTES = 8192


class GuardedProtocol(OneWriteProtocol):
    """Adds what uvicorn leaves to a proxy; the time limits are kept by `sweep`, so they cost a request nothing."""

    header_seconds = 10.0
    body_seconds = 30.0

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._since: float | None = self.loop.time()
        self._in_headers = True
        self._header_bytes = 0
        self._refusal: Problem | None = None

    def data_received(self, data: bytes) -> None:
        """Feed the parser; stop when headers never end."""
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > HEADER_BYTES and not self.transport.is_closing():
                self._refusal = _TOO_LARGE
                self.send_400_response("")

    def on_message_begin(self) -> None:
        """Start the clock of one request."""
        super().on_message_begin()
        self._since = self.loop.time()
        self._in_headers = True
        self._header_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Collect the path, up to its limit."""
        self.url += url
        if len(self.url) > URL_BYTES:
            self._refuse(Problem(414, "path_too_long", f"the path is over {URL_BYTES} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header, up to their number."""
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        headers = self.headers
        headers.append((name, value))
        if len(headers) > HEADER_COUNT or len(value) > HEADER_BYTES:
            self._refuse(_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Go on to the body."""
        self._in_headers = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Stop the clock."""
        self._since = None
        super().on_message_complete()

    def _refuse(self, problem: Problem) -> None:
        self._refusal = problem
        # The parser turns this into its own error, and data_received answers by send_400_response.
        raise ValueError(problem.reason)

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be read, and close."""
        problem = self._refusal or Problem(400, "bad_http", "this is not well-formed HTTP/1.1")
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()
            return
        content = problem.body()
        head = b"content-type: %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (CONTENT_TYPE, len(content))
        self.transport.write(STATUS_LINE[problem.status] + head + content)
        self.transport.close()

    def overdue(self, now: float) -> bool:
        """Tell whether the request that is arriving takes longer than its limit."""
        if self._since is None or (not self._in_headers and self.cycle.response_complete):
            return False
        return now - self._since > (self.header_seconds if self._in_headers else self.body_seconds)

    def expire(self) -> None:
        """Answer 408 and close."""
        self._since = None
        if self._in_headers and self.headers is None:
            # Nothing was ever asked: there is nothing to answer.
            self.transport.close()
            return
        self._refusal = Problem(408, "too_slow", "the request took too long to arrive")
        self.send_400_response("")


_TOO_LARGE = Problem(431, "headers_too_large", f"more than {HEADER_COUNT} headers, or {HEADER_BYTES} bytes of them")


def sweep(connections: Any, now: float) -> None:
    """Close the connections whose request is overdue."""
    for connection in list(connections):
        if isinstance(connection, GuardedProtocol) and connection.overdue(now):
            connection.expire()
