"""The servers that are measured beside one another: each started, waited for, and ended with all that it began."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psutil

from mlcycle_nb.serving.gateway import WHOLE, Gateway, GatewayPlan, RevisionCluster, ServicePlan

KEY = "key-of-the-benchmark-0123456789"
_START_SECONDS = 120.0
_HERE = Path(__file__).resolve().parent


@dataclass
class Server:
    """One server that answers.

    Attributes
    ----------
    body : callable
        Rows, shape (n, features) -> the request's JSON.
    processes : list of psutil.Process
        Whose memory counts, with their children; not the gateway's.
    helpers : list of psutil.Process
        What else runs for this server.
    start_seconds : float
        From the start of its process to its first answer.
    """

    name: str
    url: str
    body: Callable[[Any], bytes]
    headers: dict[str, str] = field(default_factory=dict)
    processes: list[psutil.Process] = field(default_factory=list)
    helpers: list[psutil.Process] = field(default_factory=list)
    start_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.headers = {"content-type": "application/json", **self.headers}

    def answers(self, rows: Any) -> bool:
        """Whether it answers one request with 200 now."""
        request = urllib.request.Request(self.url, self.body(rows), self.headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as refused:
            if refused.code in {429, 502, 503}:
                return False
            raise RuntimeError(f"{self.name}: {refused.code} {refused.read()[:300]!r}") from None
        except OSError:
            return False

    def memory_mb(self) -> float:
        """Resident memory of its processes and their children."""
        return sum(process.memory_info().rss for process in _trees(self.processes)) / 1e6

    def suspend(self) -> None:
        """Have it use no processor until `resume`: LitServe with batches keeps a whole one busy when nobody asks it."""
        for process in _trees([*self.helpers, *self.processes]):
            process.suspend()

    def resume(self) -> None:
        """Go on; helpers last, so that a supervisor finds what it watches awake."""
        for process in [*_trees(self.processes), *_trees(self.helpers)]:
            process.resume()


def _trees(roots: list[psutil.Process]) -> list[psutil.Process]:
    return list(dict.fromkeys(process for one in roots for process in (one, *one.children(recursive=True))))


def v2(name: str) -> Callable[[Any], bytes]:
    """Return the Open Inference Protocol's form of rows."""

    def body(rows: Any) -> bytes:
        given = {"name": name, "shape": rows.shape, "datatype": "FP32", "data": rows.reshape(-1).tolist()}
        return orjson.dumps({"inputs": [given]})

    return body


@contextmanager
def started(server: Server, argv: list[str], rows: Any, log: Path, **environment: str) -> Iterator[Server]:
    """Run a server's process, in a session of its own, and end all of it."""
    began = time.monotonic()
    with log.open("wb") as told:
        process = subprocess.Popen(
            argv, stdout=told, stderr=told, start_new_session=True, cwd=_HERE.parent, env={**os.environ, **environment}
        )
    try:
        server.processes.append(psutil.Process(process.pid))
        while not server.answers(rows):
            if process.poll() is not None or time.monotonic() - began > _START_SECONDS:
                raise RuntimeError(f"{server.name} does not answer: {log.read_text()[-2000:]}")
            time.sleep(0.01)
        server.start_seconds = time.monotonic() - began
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def bare(folder: Path, onnx: Path, rows: Any) -> Iterator[list[Server]]:
    """The bare function, asked directly and behind a gateway of its own."""
    from mlcycle_nb.context import open_context
    from mlcycle_nb.settings import load_settings
    from mlcycle_nb.supervisor.sockets import socket_path

    program = [sys.executable, str(_HERE / "_bare_server.py"), str(onnx)]
    port = free_port()
    direct = Server("bare function", f"http://127.0.0.1:{port}/", v2("input"))
    with ExitStack() as stack:
        stack.enter_context(started(direct, [*program, str(port)], rows, folder / "bare.log"))
        context = open_context(folder / "bare-home", load_settings(environ={}), actor="benchmark@here")
        stack.callback(context.store.close)
        path = socket_path(context.home, "bare")
        gateway = Gateway(context, "production")
        stack.callback(gateway.stop)
        behind = subprocess.Popen([*program, str(path)], start_new_session=True)
        stack.callback(behind.wait)
        stack.callback(behind.terminate)
        plan = GatewayPlan(
            fence=1,
            generation=1,
            services=(ServicePlan(model="bare", split=((1, WHOLE),)),),
            clusters=(RevisionCluster(model="bare", version=1, sockets=(str(path),)),),
            consumers={"bench": KEY},
        )
        gateway.apply(plan)
        headers = {"authorization": f"Bearer {KEY}"}
        through = Server("bare function, gateway", f"{gateway.url}/v2/models/bare/infer", v2("input"), headers)
        through.processes.append(psutil.Process(behind.pid))
        through.helpers += _running(context, "gateway")
        wait(through, rows)
        yield [direct, through]


@contextmanager
def ours(folder: Path, model: Any, rows: Any) -> Iterator[tuple[list[Server], Path]]:
    """One replica as `%deploy` starts it, through its gateway; also gives the packaged ONNX file."""
    from mlcycle_nb.packages import PackageStore, build_package
    from mlcycle_nb.supervisor.start import find_supervisor
    from mlcycle_nb.workspace import Workspace

    workspace = Workspace.open(folder / "home")
    try:
        store = PackageStore(workspace.context.folder("packages"))
        package = build_package(model, example=rows, out=store)
        assert package.format == "onnx", package.format
        workspace.development.register_model("bench", package)
        workspace.deployment.deploy_model("bench/1", "dev", replicas=1).wait(120)
        client = workspace.deployment.client("bench", "dev")
        name = package.signature.inputs[0].name
        server = Server(
            "mlcycle, gateway",
            f"{client.base_url}/v2/models/bench/infer",
            v2(name),
            {"authorization": f"Bearer {client.key}"},
        )
        wait(server, rows)
        server.processes += _running(workspace.context, "replica")
        supervisor = find_supervisor(workspace.context.home)
        assert supervisor is not None
        helpers = [*_running(workspace.context, ""), psutil.Process(supervisor.pid)]
        server.helpers += [one for one in helpers if one not in server.processes]
        [onnx] = package.path.glob("*.onnx")
        server.start_seconds = cold_start(folder, workspace, package)
        yield [server], onnx
    finally:
        workspace.down()
        workspace.close()


def cold_start(folder: Path, workspace: Any, package: Any) -> float:
    """Return the seconds from the start of a replica to its socket, which appears when it is ready."""
    import json

    from mlcycle_nb.supervisor.sockets import socket_path

    path = socket_path(workspace.context.home, "cold")
    config = folder / "cold.json"
    form = {"package_path": package.path, "digest": package.digest, "model": "bench", "version": "1"}
    form |= {"environment": "cold", "socket": path, "prediction_log": folder / "cold-log"}
    config.write_text(json.dumps(form, default=str))
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "mlcycle_nb.serving.replica", "--config", str(config)])
    while not path.exists():
        assert process.poll() is None, "the replica ended"
        time.sleep(0.005)
    took = time.monotonic() - began
    process.terminate()
    process.wait()
    return took


@contextmanager
def mlflow(folder: Path, model: Any, rows: Any, *, columns: bool) -> Iterator[Server]:
    """``mlflow models serve`` with one worker, in this Python; `columns` asks it as a data frame with its signature."""
    import pandas as pd
    from mlflow.models import infer_signature
    from mlflow.models.signature import ModelSignature
    from mlflow.types import Schema, TensorSpec

    path, port = folder / f"mlflow-{columns}", free_port()
    frame = pd.DataFrame(rows, columns=[f"c{n}" for n in range(rows.shape[1])])
    if type(model).__module__.startswith("torch"):
        import mlflow.pytorch
        import numpy as np

        tensor = ModelSignature(inputs=Schema([TensorSpec(np.dtype("float32"), (-1, rows.shape[1]))]))
        mlflow.pytorch.save_model(
            model, str(path), signature=tensor, pip_requirements=[], serialization_format="pickle"
        )
    else:
        import mlflow.sklearn

        signature = infer_signature(frame) if columns else None
        mlflow.sklearn.save_model(
            model, str(path), signature=signature, pip_requirements=[], serialization_format="cloudpickle"
        )

    def split(rows: Any) -> bytes:
        return orjson.dumps({"dataframe_split": {"columns": list(frame.columns), "data": rows.tolist()}})

    def instances(rows: Any) -> bytes:
        return orjson.dumps({"instances": rows.tolist()})

    name = "mlflow models serve" + (", columns with a signature" if columns else "")
    server = Server(name, f"http://127.0.0.1:{port}/invocations", split if columns else instances)
    argv = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(path), "-p", str(port), "-w", "1"]
    where = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    argv += ["-h", "127.0.0.1", "--env-manager", "local"]
    with started(server, argv, rows[:1], folder / f"{path.name}.log", PATH=where, OMP_NUM_THREADS="1") as running:
        yield running


@contextmanager
def litserve(folder: Path, model: Any, rows: Any, *, batch: int) -> Iterator[Server]:
    """LitServe with one worker."""
    import joblib

    from benchmarks._models import SklearnAnswer, TorchAnswer

    saved, port = folder / f"answer-{batch}.joblib", free_port()
    joblib.dump((TorchAnswer if type(model).__module__.startswith("torch") else SklearnAnswer)(model), saved)
    name = "LitServe" + (f", batches of {batch}" if batch > 1 else "")
    server = Server(name, f"http://127.0.0.1:{port}/predict", lambda rows: orjson.dumps({"rows": rows.tolist()}))
    argv = [sys.executable, "-m", "benchmarks._litserve_server", str(saved), str(port), str(batch)]
    with started(server, argv, rows[:1], folder / f"litserve-{batch}.log") as running:
        yield running


def _running(context: Any, prefix: str) -> list[psutil.Process]:
    known = [context.processes.get(name) for name in context.processes.names(prefix)]
    return [psutil.Process(found.pid) for found in known if found]


def has_litserve() -> bool:
    """Whether LitServe is installed beside this package."""
    return importlib.util.find_spec("litserve") is not None


def wait(server: Server, rows: Any) -> None:
    """Return once it answers."""
    deadline = time.monotonic() + _START_SECONDS
    while not server.answers(rows[:1]):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{server.name} does not answer")
        time.sleep(0.05)
