"""A webhook that fails in every way, on a real socket: 500, silence, a closed connection; then it is well again."""

from __future__ import annotations

import hashlib
import itertools
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.monitoring.alerts import Evidence
from mlcycle_nb.monitoring.channels import webhook
from mlcycle_nb.monitoring.delivery import AlertController, NotificationController
from mlcycle_nb.monitoring.incidents import record_evidence
from mlcycle_nb.monitoring.records import Notification
from mlcycle_nb.monitoring.windows import Streak
from mlcycle_nb.settings import MonitoringSettings
from mlcycle_nb.supervisor.loop import ReconcileLoop
from mlcycle_nb.testing import FakeClock


class Sink(ThreadingHTTPServer):
    """Fails as scripted: a status, ``hang``, or ``close`` before an answer."""

    daemon_threads = True

    def __init__(self) -> None:
        self.script: list[int | str] = []
        self.bodies: list[tuple[str, str]] = []  # key and digest of each whole request
        self.over = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        return  # a caller that went away is what this is about


class _Handler(BaseHTTPRequestHandler):
    server: Sink

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append((self.headers["Idempotency-Key"], hashlib.sha256(body).hexdigest()))
        step = self.server.script.pop(0) if self.server.script else 200
        if step == "hang":
            self.server.over.wait(30)
            self.close_connection = True
            return
        if step == "close":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.send_response(int(step))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def sink() -> Iterator[Sink]:
    server = Sink()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def turn(context: Context) -> None:
    loop = ReconcileLoop(context, [AlertController(context), NotificationController(context)])
    for _ in range(3):
        loop.turn()
        loop.settle()
    loop.close()


@pytest.mark.timeout(60)
def test_it_is_delivered_in_the_end_under_one_key_with_one_body_and_growing_waits(
    context: Context, declare, sink: Sink, keys_file: Path, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "CONNECT_SECONDS", 5.0)
    sink.script = [500, "hang", "close", 503, 429]
    monitoring = MonitoringSettings(
        webhook_url=f"http://127.0.0.1:{sink.server_address[1]}/",
        webhook_secret_file=str(keys_file),
        webhook_allowed_hosts=("127.0.0.1",),
    )
    aimed = replace(context, settings=replace(context.settings, monitoring=monitoring))
    evidence = Evidence(
        kind="data_drift", version=1, state="bad", subjects=("age",), summary="age moved", streaks={1: Streak(bad=1)}
    )
    alert = record_evidence(aimed, declare(channels=("webhook",)), evidence)
    assert alert is not None
    waits, tried = [], 0
    for _ in range(200):
        turn(aimed)
        if len(sink.bodies) > tried:
            tried = len(sink.bodies)
            waits.append(fake_clock.now())
        if not aimed.store.find(Notification, active=True):
            break
        fake_clock.advance(timedelta(seconds=1))
    [sent] = aimed.store.find(Notification)
    gaps = [(after - before).total_seconds() for before, after in itertools.pairwise(waits)]

    assert sent.phase == "delivered"
    assert len(sink.bodies) == 6
    assert {key for key, _ in sink.bodies} == {f"{alert.id}-1"}
    assert len({digest for _, digest in sink.bodies}) == 1
    assert gaps == sorted(gaps)
    assert gaps[-1] > 4 * gaps[0]
