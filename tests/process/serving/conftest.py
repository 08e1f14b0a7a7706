"""A real replica process over its Unix socket."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlcycle_nb.packages import Package, PackageStore, build_package

START_SECONDS = 30.0


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    pixels, target = load_digits(return_X_y=True)
    return pixels.astype(np.float32), target


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory, digits: Any) -> Package:
    pixels, target = digits
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(pixels, target)
    store = PackageStore(tmp_path_factory.mktemp("packages") / "packages")
    return build_package(model, example=pixels, reference_labels=target, out=store)


class Replica:
    """A running replica."""

    def __init__(self, process: subprocess.Popen[bytes], socket_path: Path, log: Path, folder: Path) -> None:
        self.process = process
        self.socket = socket_path
        self.predictions = log
        self.folder = folder
        self.http = httpx.Client(
            base_url="http://replica", transport=httpx.HTTPTransport(uds=str(socket_path)), timeout=20
        )

    def infer(self, rows: Any, **headers: str) -> httpx.Response:
        """Ask for rows as JSON tensors."""
        array = np.asarray(rows, dtype=np.float32)
        tensor = {"name": "input", "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}
        return self.http.post("/v2/models/digits/infer", json={"inputs": [tensor]}, headers=headers)

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        lines = self.http.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{", name + " ")))

    def raw(self, content: bytes, *, timeout: float = 10.0, then_close: bool = False) -> bytes:
        """Send bytes, and return everything until the replica closes or is quiet."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(str(self.socket))
            try:
                connection.sendall(content)
                if then_close:
                    connection.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass
            received = b""
            try:
                while chunk := connection.recv(65536):
                    received += chunk
            except (TimeoutError, ConnectionResetError):
                pass
            return received

    def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)


Starter = Callable[..., Replica]


@pytest.fixture(scope="module")
def start_replica() -> Iterator[Starter]:
    """Start replicas of a package; all are stopped, and must stop cleanly."""
    running: list[Replica] = []
    numbers = count()
    # Socket paths have about a hundred bytes at most, and pytest's own folders are long.
    root = Path(tempfile.mkdtemp(prefix="mlc-"))

    def start(package: Package, **config: Any) -> Replica:
        folder = root / str(next(numbers))
        folder.mkdir(mode=0o700)
        form = {
            "package_path": str(package.path),
            "digest": package.digest,
            "model": "digits",
            "version": 7,
            "environment": "dev",
            "socket": str(folder / "s" / "replica.sock"),
            "prediction_log": str(folder / "predictions"),
            **config,
        }
        path = folder / "replica.json"
        path.write_text(json.dumps(form))
        with (folder / "replica.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "mlcycle_nb.serving.replica", "--config", str(path)], stdout=log, stderr=log
            )
        socket_path = Path(form["socket"])
        deadline = time.monotonic() + START_SECONDS
        while not socket_path.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise RuntimeError((folder / "replica.log").read_text() or f"exit code {process.returncode}")
            time.sleep(0.01)
        replica = Replica(process, socket_path, folder / "predictions", folder)
        running.append(replica)
        return replica

    yield start
    codes = [replica.stop() for replica in running if replica.process.poll() is None]
    sockets = [replica.socket for replica in running if replica.process.returncode == 0 and replica.socket.exists()]
    shutil.rmtree(root)
    assert set(codes) <= {0}
    assert sockets == []


@pytest.fixture(scope="module")
def replica(start_replica: Starter, package: Package) -> Replica:
    """One replica for a whole module, with short time limits."""
    return start_replica(package, limits={"header_seconds": 1.0, "body_seconds": 1.5})
