"""A load generator that forgets nothing: every request with its id, version, status and time."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlcycle_nb.serving.client import ServingClient

RETRY_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request."""

    prediction_id: str
    version: str  # the version that answered, empty when none did
    status: int  # HTTP status, 0 when the connection failed
    milliseconds: float
    label: Any = None


@dataclass
class Traffic:
    """Closed-loop clients that send one row a request until stopped.

    Parameters
    ----------
    url : str
        Base URL of a gateway, such as ``http://127.0.0.1:8080``.
    model : str
        Model name.
    key : str
        API key of the consumer that calls.
    rows : sequence
        Rows to send in turn, each a list of numbers.
    concurrency : int
        Clients that run at the same time.
    per_second : float, optional
        Requests a second over all clients at most; unlimited by default.
    version : int, optional
        Call this version's own route instead of the default one.
    patience : float
        Seconds for which a request is sent again when there is no connection, or it breaks: what a client of a gateway
        on one host has to do while that gateway itself starts again. An answer, whatever its status, is final.

    Attributes
    ----------
    answers : list of Answer
        One for each request, in the order in which they ended.
    broken : list of float
        When (``time.monotonic``) an attempt met no connection, or a broken one.
    """

    url: str
    model: str
    key: str
    rows: Sequence[Any]
    concurrency: int = 4
    per_second: float | None = None
    version: int | None = None
    patience: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    broken: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._sent = 0
        self._began = 0.0

    @classmethod
    def through(cls, client: ServingClient, rows: Any, **options: Any) -> Traffic:
        """Return traffic to the model, and with the key, of a client."""
        return cls(client.base_url, client.model, client.key, rows, version=client.version, **options)

    def start(self) -> Traffic:
        """Start the clients and return at once."""
        if self._threads:
            return self
        self._stop.clear()
        self._began = time.monotonic()
        self._threads = [threading.Thread(target=self._client, daemon=True) for _ in range(self.concurrency)]
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> Traffic:
        """Let the requests in flight end, and stop."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._threads = []
        return self

    def __enter__(self) -> Traffic:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_for(self, requests: int, timeout: float = 60.0) -> Traffic:
        """Block until this many requests were answered."""
        deadline = time.monotonic() + timeout
        while len(self.answers) < requests:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.answers)} of {requests} requests within {timeout} s")
            time.sleep(0.02)
        return self

    @property
    def failed(self) -> list[Answer]:
        """Requests that got no answer of a model: connection failures and every status but 200."""
        return [answer for answer in self.answers if answer.status != 200]

    def versions(self) -> Counter[str]:
        """Count of answers by version."""
        return Counter(answer.version for answer in self.answers if answer.status == 200)

    def __repr__(self) -> str:
        shares = ", ".join(f"version {v}: {n}" for v, n in sorted(self.versions().items()))
        return f"{len(self.answers)} requests, {len(self.failed)} failed; {shares}"

    # -- parts -----------------------------------------------------------------------------------------------

    def _client(self) -> None:
        import httpx

        path = f"/v2/models/{self.model}" + (f"/versions/{self.version}" if self.version else "") + "/infer"
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        with httpx.Client(base_url=self.url, headers=headers, timeout=30.0, trust_env=False) as client:
            while not self._stop.is_set():
                number = self._next()
                row = self.rows[number % len(self.rows)]
                self.answers.append(self._ask(client, path, [float(value) for value in row]))

    def _next(self) -> int:
        with self._lock:
            number = self._sent
            self._sent += 1
        if self.per_second is not None:
            self._stop.wait(max(0.0, self._began + number / self.per_second - time.monotonic()))
        return number

    def _ask(self, client: Any, path: str, row: list[float]) -> Answer:
        import httpx

        body = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, len(row)], "data": row}]}
        began = time.perf_counter()
        while True:
            try:
                answer = client.post(path, content=json.dumps(body))
                break
            except httpx.HTTPError as failure:
                self.broken.append(time.monotonic())
                waited = time.perf_counter() - began
                if waited >= self.patience:
                    return Answer(type(failure).__name__, "", 0, waited * 1e3)
                time.sleep(RETRY_SECONDS)
        label = None
        if answer.status_code == 200:
            outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
            label = outputs.get("label", outputs.get("value", [None]))[0]
        return Answer(
            answer.headers.get("x-prediction-id", ""),
            answer.headers.get("x-model-version", ""),
            answer.status_code,
            (time.perf_counter() - began) * 1e3,
            label,
        )
