"""The replica as a bare ASGI function: limits, routes, answers. No framework is between the socket and the model."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING, Any

from mlcycle_nb.serving.batching import Batch, Batcher, Call
from mlcycle_nb.serving.contract import InputContract, OutputContract
from mlcycle_nb.serving.counters import Counters
from mlcycle_nb.serving.limits import Limits
from mlcycle_nb.serving.protocols.mlflow import MlflowScoring
from mlcycle_nb.serving.protocols.oip import OpenInference
from mlcycle_nb.serving.refusals import CONTENT_TYPE, Problem, malformed

if TYPE_CHECKING:
    import asyncio

    from numpy.typing import NDArray

    from mlcycle_nb.packages.formats import Runtime
    from mlcycle_nb.packages.package import Package
    from mlcycle_nb.serving.prediction_log import PredictionLogWriter

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = dict[bytes, bytes]

JSON = b"application/json"
SERVER_NAME = "mlcycle_nb"
ID_LIMIT = 128
_JSON_TYPE = (b"content-type", JSON)
_CLOSE = (b"connection", b"close")
_INFER, _SCORE, _TEXT = "infer", "score", "text"


class ReplicaApp:
    """Answers for one version of one model.

    Parameters
    ----------
    package : Package
        What is served.
    runtime : Runtime
        Its loaded model.
    model, version, environment : str
        Names in routes, answers and metrics.
    executor : ThreadPoolExecutor
        The model thread.
    limits : Limits
        Bounds.
    log : PredictionLogWriter, optional
        Where predictions are logged; it is started and flushed with the server.
    """

    def __init__(
        self,
        package: Package,
        runtime: Runtime,
        *,
        model: str,
        version: str,
        environment: str,
        executor: ThreadPoolExecutor,
        limits: Limits | None = None,
        log: PredictionLogWriter | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.counters = Counters(model=model, version=version, environment=environment)
        self.log = log
        self.draining = False
        if log is not None:
            log.copies = self.counters.copies
        takes = InputContract(package.signature.inputs[0], package.feature_names, self.limits.rows)
        self.batcher = Batcher(
            runtime,
            takes,
            OutputContract(package.signature),
            self.counters,
            executor,
            batch_rows=self.limits.batch_rows,
            queued_rows=self.limits.queued_rows,
            on_batch=self._logged,
        )
        self._oip = OpenInference(package, takes, model, version)
        self._scoring = MlflowScoring(package, takes)
        self._version_header = (b"x-model-version", version.encode())
        self._sequence = count(1)
        self._own_prefix = os.urandom(8).hex()
        self._routes = self._make_routes(model.encode(), version.encode())

    def _make_routes(self, model: bytes, version: bytes) -> dict[bytes, tuple[str, str, Callable[[], bytes]]]:
        """Return path -> (method, kind, body for GET)."""

        def infer() -> bytes:
            raise AssertionError("infer has no GET body")

        def health() -> bytes:
            return b'{"ready":true}'

        metadata = self._oip.model_metadata
        routes: dict[bytes, tuple[str, str, Callable[[], bytes]]] = {
            b"/v2": ("GET", _TEXT, lambda: _SERVER_METADATA),
            b"/v2/health/live": ("GET", "live", lambda: b'{"live":true}'),
            b"/v2/health/ready": ("GET", "ready", health),
            b"/metrics": ("GET", "metrics", lambda: self.counters.text(self.batcher.queued_rows, self.log)),
            b"/invocations": ("POST", _SCORE, infer),
            b"/ping": ("GET", "ready", health),
            b"/health": ("GET", "ready", health),
        }
        for base in (b"/v2/models/" + model, b"/v2/models/" + model + b"/versions/" + version):
            routes[base] = ("GET", _TEXT, lambda: metadata)
            routes[base + b"/ready"] = ("GET", "ready", health)
            routes[base + b"/infer"] = ("POST", _INFER, infer)
        return routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the server's life."""
        if scope["type"] != "http":
            await self._lifespan(scope, receive, send)
            return
        started = time.perf_counter()
        prediction_id = b""
        call: Call | None = None
        try:
            route = self._routes.get(scope["raw_path"])
            if route is None:
                raise _no_route(scope)
            method, kind, body_of = route
            if scope["method"] != method and (scope["method"] != "HEAD" or method != "GET"):
                raise Problem(405, "wrong_method", f"use {method}", close=True)
            if kind is not _INFER and kind is not _SCORE:
                await self._tell(kind, body_of, send)
                return
            headers: Headers = dict(scope["headers"])
            body = await self._body(headers, receive)
            if body is None:
                return
            prediction_id = self._prediction_id(headers)
            answer = [_JSON_TYPE, self._version_header, (b"x-prediction-id", prediction_id)]
            if kind is _INFER:
                request = self._oip.read(body, headers.get(b"inference-header-content-length"))
                call = self._call(request.array, headers, prediction_id, started)
                batch, first = await self.batcher.submit(call)
                content, length = self._oip.write(request, batch, first)
                if length is not None:
                    answer[0] = (b"content-type", b"application/octet-stream")
                    answer.append((b"inference-header-content-length", b"%d" % length))
            else:
                scoring = self._scoring.read(body)
                call = self._call(scoring.array, headers, prediction_id, started)
                batch, first = await self.batcher.submit(call)
                content = self._scoring.write(scoring, batch, first)
        except Problem as problem:
            if call is not None and call.mirrored:
                self.counters.count_copy(failed=problem.status >= 500)
            await self._refuse(problem, prediction_id, scope, send)
            return
        counters = self.counters
        if call is not None and call.mirrored:
            counters.count_copy(failed=False)
        counters.respond(200)
        counters.latency_ms.add((time.perf_counter() - started) * 1000.0)
        answer.append((b"content-length", b"%d" % len(content)))
        if self.draining:
            answer.append(_CLOSE)
        await send({"type": "http.response.start", "status": 200, "headers": answer})
        await send({"type": "http.response.body", "body": content})

    async def _tell(self, kind: str, body_of: Callable[[], bytes], send: Send) -> None:
        """Answer a GET."""
        if kind == "ready" and self.draining:
            raise Problem(503, "draining", "this replica is going away")
        content = body_of()
        self.counters.respond(200)
        media = _JSON_TYPE if kind != "metrics" else (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
        answer = [media, self._version_header, (b"content-length", b"%d" % len(content))]
        if self.draining:
            answer.append(_CLOSE)
        await send({"type": "http.response.start", "status": 200, "headers": answer})
        await send({"type": "http.response.body", "body": content})

    def _call(self, array: NDArray[Any], headers: Headers, prediction_id: bytes, started: float) -> Call:
        host = headers.get(b"host", b"")
        mirrored = b"-shadow" in host and (host.partition(b":")[0].endswith(b"-shadow") or host.endswith(b"-shadow"))
        consumer = headers.get(b"x-consumer", b"")[:63]
        return Call(array, prediction_id.decode("latin-1"), consumer.decode("latin-1"), mirrored, started)

    async def _body(self, headers: Headers, receive: Receive) -> bytes | None:
        """Return the body within the limits, or None when the client has gone."""
        limit = self.limits.body_bytes
        kind = headers.get(b"content-type", JSON)
        if kind != JSON and not _acceptable(kind, headers):
            raise Problem(415, "wrong_content_type", "send application/json, or a binary tensor request", close=True)
        if b"content-encoding" in headers and headers[b"content-encoding"].lower() != b"identity":
            raise Problem(415, "wrong_encoding", "compressed bodies are not taken", close=True)
        announced = headers.get(b"content-length")
        if announced is not None and (len(announced) > 15 or int(announced) > limit):
            raise Problem(413, "body_too_large", f"the body is over {limit} bytes; send fewer rows", close=True)
        message = await receive()
        if message["type"] != "http.request":
            return None
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            if len(body) > limit:
                raise Problem(413, "body_too_large", f"the body is over {limit} bytes; send fewer rows", close=True)
            return body
        chunks, size = [body], len(body)
        while message.get("more_body", False):
            if size > limit:
                raise Problem(413, "body_too_large", f"the body is over {limit} bytes; send fewer rows", close=True)
            message = await receive()
            if message["type"] != "http.request":
                return None
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
        if size > limit:
            raise Problem(413, "body_too_large", f"the body is over {limit} bytes; send fewer rows", close=True)
        return b"".join(chunks)

    def _prediction_id(self, headers: Headers) -> bytes:
        given = headers.get(b"x-request-id", b"")
        if given and len(given) <= ID_LIMIT and given.isascii() and given.decode().isprintable() and b" " not in given:
            return given
        return f"{self._own_prefix}-{next(self._sequence)}".encode()

    async def _refuse(self, problem: Problem, prediction_id: bytes, scope: Scope, send: Send) -> None:
        self.counters.respond(problem.status)
        self.counters.refuse(problem.reason)
        content = problem.body()
        headers = [
            (b"content-type", CONTENT_TYPE),
            (b"content-length", b"%d" % len(content)),
            self._version_header,
        ]
        if prediction_id:
            headers.append((b"x-prediction-id", prediction_id))
        if problem.status == 503:
            headers.append((b"retry-after", b"1"))
        if problem.close or self.draining:
            headers.append(_CLOSE)
        await send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                if self.log is not None:
                    self.log.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                if self.log is not None:
                    # In the lifespan and not in atexit: there, the last rows were lost under uvicorn.
                    await _loop().run_in_executor(None, self.log.close)
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _logged(self, batch: Batch) -> None:
        if self.log is not None:
            self.log.append(batch)


def _loop() -> asyncio.AbstractEventLoop:
    import asyncio

    return asyncio.get_running_loop()


def _acceptable(kind: bytes, headers: Headers) -> bool:
    media, _, parameters = kind.partition(b";")
    media = media.strip().lower()
    if media == JSON:
        charset = parameters.strip().lower().replace(b'"', b"")
        return charset in (b"", b"charset=utf-8", b"format=pandas-split")
    return media == b"application/octet-stream" and b"inference-header-content-length" in headers


def _no_route(scope: Scope) -> Problem:
    path: bytes = scope["raw_path"]
    if len(path) > 2048:
        return Problem(414, "path_too_long", "the path is over 2048 bytes", close=True)
    odd = b"%" in path or b"//" in path or b"/.." in path or b"/./" in path or b"\\" in path
    if odd or any(byte <= 0x20 or byte >= 0x7F for byte in path):
        return malformed("bad_path", "paths hold no escapes, doubled slashes or dots")
    return Problem(404, "not_found", "there is nothing at this address")


def _server_metadata() -> bytes:
    from importlib.metadata import version

    import orjson

    return orjson.dumps({"name": SERVER_NAME, "version": version("mlcycle-nb"), "extensions": ["binary_tensor_data"]})


_SERVER_METADATA = _server_metadata()
