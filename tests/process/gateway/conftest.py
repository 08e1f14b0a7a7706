"""A gateway with small real replicas, and clients that count what they get."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket as socket_module
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.serving.gateway import WHOLE, AccessRow, Gateway, GatewayPlan, RevisionCluster, ServicePlan
from mlcycle_nb.supervisor.sockets import socket_path

KEY = "key-of-the-notebook-0123456789"
UPSTREAM = Path(__file__).with_name("upstream.py")


def wait_until(condition: Callable[[], bool], limit_seconds: float = 60.0) -> None:
    """Return once the condition holds; fail when it never does."""
    deadline = time.monotonic() + limit_seconds
    while not condition():
        assert time.monotonic() < deadline, "condition never held"
        time.sleep(0.02)


def _accepts(path: Path) -> bool:
    with socket_module.socket(socket_module.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


class Replicas:
    """Starts and kills the test upstream."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.log = context.home / "seen.jsonl"

    def start(self, version: int, index: int = 0) -> str:
        """Start one replica and return its socket, once it listens."""
        name = f"upstream-{version}-{index}"
        socket = socket_path(self.context.home, name)
        argv = [sys.executable, str(UPSTREAM), str(socket), str(version), str(self.log)]
        self.context.processes.ensure(name, argv, log=self.context.home / f"{name}.log")
        wait_until(lambda: _accepts(socket))
        return str(socket)

    def signal(self, version: int, index: int = 0, number: int = signal.SIGKILL) -> None:
        identity = self.context.processes.get(f"upstream-{version}-{index}")
        assert identity is not None
        os.kill(identity.pid, number)

    def seen(self) -> list[dict[str, Any]]:
        """Return what the replicas were asked."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


class Client:
    """One keep-alive connection."""

    def __init__(self, gateway: Gateway, key: str | None = KEY) -> None:
        self.host = gateway.url.removeprefix("http://")
        self.headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self.connection = http.client.HTTPConnection(self.host, timeout=20)

    def ask(
        self,
        path: str = "/v2/models/digits/infer",
        body: object = None,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, str], Any]:
        """Return status, headers by lower-case name, and the JSON body."""
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        self.connection.request(
            method,
            path,
            content if method == "POST" else None,
            {"content-type": "application/json", **self.headers, **(headers or {})},
        )
        response = self.connection.getresponse()
        answer = response.read()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return response.status, fields, json.loads(answer) if answer else None


class Load:
    """Closed-loop clients in threads; every answer is counted by status and version."""

    def __init__(self, gateway: Gateway, *, clients: int = 16, key: str = KEY, body: object = None) -> None:
        self.gateway, self.key, self.body = gateway, key, body
        self.counts: Counter[tuple[int, str]] = Counter()
        self.failures: list[str] = []
        self.request_ids: set[str] = set()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        by_version = {version: 0 for _, version in self.counts}
        for (_, version), number in self.counts.items():
            by_version[version] += number
        print(f"{self.requests} requests, {len(self.failures)} failed, by version {by_version}")

    @property
    def requests(self) -> int:
        return sum(self.counts.values()) + len(self.failures)

    def wait_for(self, more: int) -> None:
        """Return once this many further requests were answered."""
        goal = self.requests + more
        wait_until(lambda: self.requests >= goal, 120)

    def _run(self) -> None:
        client = Client(self.gateway, self.key)
        while not self._stopped.is_set():
            try:
                status, headers, answer = client.ask(body=self.body)
            except (OSError, http.client.HTTPException) as failure:
                with self._lock:
                    self.failures.append(repr(failure))
                client = Client(self.gateway, self.key)
                continue
            with self._lock:
                if status == 200 and answer["version"] == headers["x-model-version"]:
                    self.counts[status, answer["version"]] += 1
                    self.request_ids.add(headers["x-request-id"])
                else:
                    self.failures.append(f"{status} {answer}")


class Planner:
    """Writes plans of one model, `digits`, with rising generations."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.generation = 0

    def plan(
        self,
        split: Mapping[int, int],
        sockets: Mapping[int, list[str]],
        consumers: Mapping[str, str] | None = None,
        **service: Any,
    ) -> GatewayPlan:
        self.generation += 1
        return GatewayPlan(
            fence=1,
            generation=self.generation,
            services=(ServicePlan(model="digits", split=tuple(split.items()), **service),),
            clusters=tuple(
                RevisionCluster(model="digits", version=version, sockets=tuple(paths))
                for version, paths in sockets.items()
            ),
            consumers=dict(consumers or {"notebook": KEY}),
        )

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        return self.gateway.apply(self.plan(*args, **kwargs))


@pytest.fixture
def gateway(context: Context) -> Iterator[Gateway]:
    opened = Gateway(context, "production")
    yield opened
    opened.stop()


@pytest.fixture
def replicas(context: Context) -> Replicas:
    return Replicas(context)


@pytest.fixture
def planner(gateway: Gateway) -> Planner:
    return Planner(gateway)


@pytest.fixture
def served(gateway: Gateway, planner: Planner, replicas: Replicas) -> Client:
    """Version 7 on two replicas, and a client with a key."""
    planner.apply({7: WHOLE}, {7: [replicas.start(7, 0), replicas.start(7, 1)]})
    return Client(gateway)


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """Return a wait for a condition."""
    return wait_until


@pytest.fixture
def wait_healthy(gateway: Gateway) -> Callable[[int], None]:
    """Return a wait for a number of replicas of version 7 that get requests."""
    return lambda number: wait_until(lambda: gateway.healthy("digits", 7) == number)


@pytest.fixture
def access_rows(gateway: Gateway) -> Callable[[int], list[AccessRow]]:
    """Return a reader of the whole access log, which waits for a number of rows."""

    def read(number: int) -> list[AccessRow]:
        rows: list[AccessRow] = []
        position: list[str | None] = [None]

        def enough() -> bool:
            batch = gateway.access_log.read(position[0])
            assert batch.unreadable == 0
            rows.extend(batch.rows)
            position[0] = batch.position
            return len(rows) >= number

        wait_until(enough)
        return rows

    return read


@pytest.fixture
def load(gateway: Gateway) -> Callable[..., Load]:
    return lambda **options: Load(gateway, **options)


@pytest.fixture
def client(gateway: Gateway) -> Callable[..., Client]:
    return lambda key=KEY: Client(gateway, key)
