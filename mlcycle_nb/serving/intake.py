"""The process that takes labels over HTTP: ``python -m mlcycle_nb.serving.intake --home H --environment E --socket S``.

One for each environment, behind the gateway, which has checked the consumer's key. It is no replica: labels still come
for a model that is retired, cost its replicas nothing, and are in no version's request counts.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import orjson

from mlcycle_nb.clock import OffsetClock, SystemClock
from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.references import check_name
from mlcycle_nb.serving.app import Receive, Scope, Send
from mlcycle_nb.serving.feedback import read_feedback
from mlcycle_nb.serving.label_desk import LabelDesk, Receipt
from mlcycle_nb.serving.labels import Label
from mlcycle_nb.serving.limits import Limits
from mlcycle_nb.serving.memory import give_back, use_one_arena
from mlcycle_nb.serving.refusals import CONTENT_TYPE, Problem
from mlcycle_nb.serving.server import run

WAITING = 100_000
"""Labels that may wait for the disk; beyond, senders are told to come back."""
_JSON = b"application/json"
_PREFIX, _SUFFIX = "/v2/models/", "/feedback"
_HEALTH = ("/v2/health/live", "/v2/health/ready")


class IntakeApp:
    """Answers feedback requests.

    Parameters
    ----------
    desk : LabelDesk
        Stores what is taken.
    clock : SystemClock or OffsetClock
    limits : Limits, optional
        Bounds of a request.
    """

    def __init__(self, desk: LabelDesk, clock: SystemClock | OffsetClock, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.draining = False
        self._desk = desk
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="label-desk")
        self._pending: list[tuple[str, list[Label], asyncio.Future[Receipt]]] = []
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the server's life."""
        if scope["type"] != "http":
            await _lifespan(scope, receive, send)
            return
        try:
            status, content = await self._answer(scope, receive)
            kind = _JSON
        except Problem as problem:
            status, content, kind = problem.status, problem.body(), CONTENT_TYPE
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(content))]
        if status == 503:
            headers.append((b"retry-after", b"1"))
        if self.draining or status in (413, 415):
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        path = scope["path"]
        if path in _HEALTH and scope["method"] in ("GET", "HEAD"):
            if self.draining:
                raise Problem(503, "draining", "this process is going away")
            return 200, b'{"ready":true}'
        if not (path.startswith(_PREFIX) and path.endswith(_SUFFIX)):
            raise Problem(404, "not_found", "there is nothing at this address")
        if scope["method"] != "POST":
            raise Problem(405, "wrong_method", "use POST")
        try:
            model = check_name(path[len(_PREFIX) : -len(_SUFFIX)], "model")
        except MLCycleError:
            raise Problem(404, "not_found", "there is nothing at this address") from None
        labels = read_feedback(await self._body(scope, receive), self._now())
        receipt = await self._store(model, labels)
        return receipt.status, orjson.dumps(receipt.to_json())

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        headers = dict(scope["headers"])
        media = headers.get(b"content-type", _JSON).partition(b";")[0].strip().lower()
        if media != _JSON or headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Problem(415, "wrong_content_type", "send application/json, not compressed")
        limit = self.limits.body_bytes
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise Problem(400, "gone", "the sender has gone")
            body += message.get("body", b"")
            if len(body) > limit:
                raise Problem(413, "body_too_large", f"the body is over {limit} bytes; send fewer labels")
            more = message.get("more_body", False)
        return body

    async def _store(self, model: str, labels: list[Label]) -> Receipt:
        """Return once the labels are on disk; those that wait meanwhile go there together."""
        if self._waiting + len(labels) > WAITING:
            raise Problem(503, "busy", "too many labels wait to be stored; send them again later")
        done: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._pending.append((model, labels, done))
        self._waiting += len(labels)
        try:
            if len(self._pending) == 1:
                await self._flush()
            return await done
        finally:
            self._waiting -= len(labels)

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        # Before the thread is free again, whatever arrives joins the same turn.
        batch = await loop.run_in_executor(self._thread, self._take_pending)
        groups: dict[str, list[tuple[list[Label], asyncio.Future[Receipt]]]] = {}
        for model, labels, done in batch:
            groups.setdefault(model, []).append((labels, done))
        for model, members in groups.items():
            try:
                receipts = await loop.run_in_executor(
                    self._thread, self._desk.take, model, [labels for labels, _ in members]
                )
            except Exception as failure:  # whatever it is, everybody who waits is told, and the next turn is tried
                print(f"labels of {model} were not stored: {failure!r}", file=sys.stderr, flush=True)
                problem = Problem(503, "not_stored", "the labels could not be stored; send them again later")
                for _, done in members:
                    _settle(done, problem)
                continue
            for (_, done), receipt in zip(members, receipts, strict=True):
                _settle(done, receipt)

    def _take_pending(self) -> list[tuple[str, list[Label], asyncio.Future[Receipt]]]:
        batch, self._pending = self._pending, []
        return batch

    def _now(self) -> datetime:
        return self._clock.now()


def _settle(done: asyncio.Future[Receipt], result: Receipt | Problem) -> None:
    if done.done():
        return  # its sender has gone
    if isinstance(result, Problem):
        done.set_exception(result)
    else:
        done.set_result(result)


async def _lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    while scope["type"] == "lifespan":
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def argv(home: Path, environment: str, socket: Path, *, body_bytes: int, offset_clock: bool) -> list[str]:
    """Return the command that runs it."""
    command = [sys.executable, "-m", "mlcycle_nb.serving.intake", "--home", str(home), "--environment", environment]
    command += ["--socket", str(socket), "--body-bytes", str(body_bytes)]
    return [*command, "--offset-clock"] if offset_clock else command


def main(arguments: Sequence[str] | None = None) -> int:
    """Take labels until SIGTERM."""
    parser = argparse.ArgumentParser(prog="mlcycle_nb.serving.intake", description="Take labels of predictions.")
    parser.add_argument("--home", type=Path, required=True, help="the workspace folder")
    parser.add_argument("--environment", required=True)
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to listen on")
    parser.add_argument("--body-bytes", type=int, default=Limits().body_bytes, help="largest request")
    parser.add_argument("--offset-clock", action="store_true", help="use the workspace's clock, not the machine's")
    options = parser.parse_args(arguments)
    use_one_arena()
    clock = OffsetClock(options.home / "clock.json") if options.offset_clock else SystemClock()

    def settle() -> None:
        gc.collect()
        gc.freeze()
        give_back()

    try:
        desk = LabelDesk(options.home, options.environment, clock)
        run(IntakeApp(desk, clock, Limits(body_bytes=options.body_bytes)), options.socket, on_ready=settle)
    except MLCycleError as failure:
        print(failure, file=sys.stderr, flush=True)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
