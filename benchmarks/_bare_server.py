"""The least that answers the same question: an ASGI function with greedy micro-batching around the same ONNX model.

``python benchmarks/_bare_server.py MODEL.onnx PORT|SOCKET``. It checks nothing, logs nothing, and knows one address.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import numpy as np
import onnxruntime
import orjson
import uvicorn


class Bare:
    """Whatever has come while the loop was busy is answered by one call of the model."""

    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options)
        self.input = self.session.get_inputs()[0].name
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.waiting: list[tuple[Any, asyncio.Future[list[Any]]]] = []

    def answer_all(self) -> None:
        taken, self.waiting = self.waiting, []
        batch = np.concatenate([rows for rows, _ in taken])
        found = self.session.run(None, {self.input: batch})
        at = 0
        for rows, future in taken:
            future.set_result([output[at : at + len(rows)] for output in found])
            at += len(rows)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        answer = b"{}"
        if body:
            [given] = orjson.loads(body)["inputs"]
            rows = np.asarray(given["data"], np.float32).reshape(given["shape"])
            loop = asyncio.get_running_loop()
            future: asyncio.Future[list[Any]] = loop.create_future()
            if not self.waiting:
                loop.call_soon(self.answer_all)
            self.waiting.append((rows, future))
            found = await future
            told = [
                {"name": n, "shape": o.shape, "data": np.ascontiguousarray(o).reshape(-1)}
                for n, o in zip(self.outputs, found, strict=True)
            ]
            answer = orjson.dumps({"outputs": told}, option=orjson.OPT_SERIALIZE_NUMPY)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


def main() -> None:
    """Serve until SIGTERM."""
    app, place = Bare(sys.argv[1]), sys.argv[2]
    where: dict[str, Any] = {"uds": place} if place.startswith("/") else {"host": "127.0.0.1", "port": int(place)}
    uvicorn.run(app, http="httptools", loop="asyncio", log_level="warning", access_log=False, **where)


if __name__ == "__main__":
    main()
