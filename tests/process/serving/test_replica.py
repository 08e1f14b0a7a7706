"""A real replica: what it answers, how it starts, how it stops."""

from __future__ import annotations

import json
import signal
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mlcycle_nb.errors import EngineError, InvalidInput, NotFound
from mlcycle_nb.packages import Package, PackageStore, build_package
from mlcycle_nb.packages.signing import public_key_hex
from mlcycle_nb.serving.client import ServingClient
from mlcycle_nb.serving.prediction_log import copy_totals, log_totals, read_predictions

from .conftest import Replica, Starter

pytestmark = pytest.mark.timeout(120)


class TestAnswers:
    """Open Inference Protocol, MLflow scoring, health, metadata, metrics."""

    def test_infer_answers_as_the_original(self, replica: Replica, package: Package) -> None:
        """The golden batch over HTTP gives the original's labels and probabilities."""
        inputs, outputs = package.golden()
        answer = replica.infer(inputs["input"])
        tensors = {o["name"]: np.asarray(o["data"]).reshape(o["shape"]) for o in answer.json()["outputs"]}

        assert answer.headers["x-model-version"] == "7"
        np.testing.assert_array_equal(tensors["label"], outputs["label"])
        np.testing.assert_allclose(tensors["probabilities"], outputs["probabilities"], atol=1e-4)

    def test_prediction_id_is_the_request_id(self, replica: Replica) -> None:
        """The gateway's id comes back; without one the replica makes its own; an odd one is replaced."""
        row = np.ones((1, 64))

        assert replica.infer(row, **{"x-request-id": "abc-1"}).headers["x-prediction-id"] == "abc-1"
        own = {replica.infer(row).headers["x-prediction-id"] for _ in range(3)}
        assert len(own) == 3
        assert replica.infer(row, **{"x-request-id": "a" * 300}).headers["x-prediction-id"] != "a" * 300

    def test_pinned_version_path(self, replica: Replica) -> None:
        """The version may be part of the path."""
        body = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 64], "data": [[0.0] * 64]}], "id": "a:b"}
        answer = replica.http.post("/v2/models/digits/versions/7/infer", json=body)

        assert answer.status_code == 200
        assert answer.json()["id"] == "a:b"

    def test_chosen_outputs(self, replica: Replica) -> None:
        """Only the outputs asked for come back."""
        tensor = {"name": "input", "datatype": "FP32", "shape": [2, 64], "data": [[0.0] * 64] * 2}
        body = {"inputs": [tensor], "outputs": [{"name": "label"}]}
        outputs = replica.http.post("/v2/models/digits/infer", json=body).json()["outputs"]

        assert [(output["name"], output["shape"]) for output in outputs] == [("label", [2])]

    def test_health_and_metadata(self, replica: Replica, package: Package) -> None:
        """All protocol routes answer."""
        for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/digits/ready", "/ping", "/health",
                     "/v2/models/digits/versions/7/ready"):  # fmt: skip
            assert replica.http.get(path).status_code == 200, path
        metadata = replica.http.get("/v2/models/digits").json()

        assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 64]}]
        assert metadata["parameters"]["digest"] == package.digest

    @pytest.mark.parametrize("form", ["inputs", "instances", "split", "records", "columns", "tensor", "shuffled"])
    def test_invocations(self, replica: Replica, package: Package, digits: Any, form: str) -> None:
        """Every form of MLflow's scoring protocol gives the same predictions."""
        rows = digits[0][:5].tolist()
        names = list(package.feature_names)
        order = names[::-1]
        body = {
            "inputs": {"inputs": rows},
            "instances": {"instances": rows},
            "split": {"dataframe_split": {"columns": names, "index": [0, 1, 2, 3, 4], "data": rows}},
            "records": {"dataframe_records": [dict(zip(names, row, strict=True)) for row in rows]},
            "columns": {"inputs": {name: [row[i] for row in rows] for i, name in enumerate(names)}},
            "tensor": {"inputs": {"input": rows}},
            "shuffled": {"dataframe_split": {"columns": order, "data": [row[::-1] for row in rows]}},
        }[form]
        answer = replica.http.post("/invocations", json=body)
        wanted = json.loads(replica.infer(rows).text)["outputs"][0]["data"]

        assert answer.json() == {"predictions": wanted}

    def test_invocations_probabilities(self, replica: Replica) -> None:
        """Another output by params."""
        body = {"inputs": [[0.0] * 64] * 3, "params": {"output": "probabilities"}}
        answer = replica.http.post("/invocations", json=body).json()["predictions"]

        np.testing.assert_allclose(np.sum(answer, axis=1), 1.0, atol=1e-5)

    def test_concurrent_requests_get_their_own_answers(self, replica: Replica, package: Package, digits: Any) -> None:
        """Rows that share a batch do not change places."""
        pixels = digits[0]
        alone = [json.loads(replica.infer(pixels[i : i + 1 + i % 3]).text)["outputs"][0]["data"] for i in range(60)]
        with ThreadPoolExecutor(16) as pool:
            together = list(
                pool.map(
                    lambda i: json.loads(replica.infer(pixels[i : i + 1 + i % 3]).text)["outputs"][0]["data"], range(60)
                )
            )

        assert together == alone
        assert replica.metric("mlcycle_replica_rows_total") > 100

    def test_socket_is_private(self, replica: Replica) -> None:
        """0600 in a folder of 0700."""
        assert stat.S_IMODE(replica.socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(replica.socket.parent.stat().st_mode) == 0o700

    def test_imports_nothing_heavy(self, replica: Replica) -> None:
        """No torch, pandas or MLflow is mapped into the process."""
        mapped = Path(f"/proc/{replica.process.pid}/maps").read_text()

        assert "/onnxruntime/" in mapped
        assert not [name for name in ("/torch/", "/pandas/", "/mlflow/", "/sklearn/") if name in mapped]


class TestClient:
    """ServingClient says in our own errors what went wrong."""

    def test_predict(self, replica: Replica, digits: Any) -> None:
        """Labels, probabilities, version and one id a row."""
        with ServingClient("http://replica", "", "digits", socket=replica.socket) as client:
            answer = client.predict(digits[0][:3])

        assert answer.version == 7
        assert answer.labels is not None
        assert answer.labels.tolist() == digits[1][:3].tolist()
        assert answer.probabilities is not None
        assert answer.probabilities.shape == (3, 10)
        assert answer.prediction_ids == tuple(f"{answer.prediction_id}/{row}" for row in range(3))

    @pytest.mark.parametrize(
        ("rows", "words"),
        [([0.0] * 64, "one list a row"), ([["a"] * 64], "must be numbers"), ([[float("nan")] * 64], "not finite"),
         ([[1, 2], [3]], "same length"), ([[0.0] * 63], "HTTP 422")],
    )  # fmt: skip
    def test_bad_rows(self, replica: Replica, rows: Any, words: str) -> None:
        """Bad rows are the caller's error."""
        with (
            ServingClient("http://replica", "", "digits", socket=replica.socket) as client,
            pytest.raises(InvalidInput, match=words),
        ):
            client.predict(rows)

    def test_unknown_model_and_dead_replica(self, replica: Replica, tmp_path: Path) -> None:
        """404 is NotFound; no server is an engine's error."""
        with (
            ServingClient("http://replica", "", "other", socket=replica.socket) as client,
            pytest.raises(NotFound, match="HTTP 404"),
        ):
            client.predict([[0.0] * 64])
        with (
            ServingClient("http://replica", "", "digits", socket=tmp_path / "no.sock") as client,
            pytest.raises(EngineError, match="cannot be reached"),
        ):
            client.predict([[0.0] * 64])


class TestLife:
    """Start, refusal to start, drain, kill."""

    def test_log_is_complete_after_sigterm(self, start_replica: Starter, package: Package) -> None:
        """Everything that was answered is in the log once the replica has gone, with its consumer and mirror flag."""
        replica = start_replica(package)
        ids = {replica.infer(np.ones((2, 64)), **{"x-consumer": "shop"}).headers["x-prediction-id"] for _ in range(50)}
        shadow = replica.infer(np.ones((1, 64)), host="digits-shadow", **{"x-request-id": "m1"})
        socket_path = replica.socket

        assert shadow.status_code == 200
        assert replica.stop() == 0
        assert not socket_path.exists()
        served = read_predictions(replica.predictions, "dev", "digits")
        mirrored = read_predictions(replica.predictions, "dev", "digits", mirrored=True)
        assert set(served["prediction_id"].to_pylist()) == ids
        assert len(served) == 100
        assert set(served["consumer"].to_pylist()) == {"shop"}
        assert mirrored["prediction_id"].to_pylist() == ["m1"]
        assert log_totals(replica.predictions, "dev", "digits", 7)["written_rows"] == 101
        assert copy_totals(replica.predictions, "dev", "digits", 7) == (1, 0)

    def test_sigterm_answers_what_is_in_hand(self, start_replica: Starter, package: Package) -> None:
        """Under load, SIGTERM cuts no request that was sent before its connection was closed."""
        replica = start_replica(package)
        lost: list[str] = []
        answered = []

        def ask() -> None:
            client = httpx.Client(base_url="http://r", transport=httpx.HTTPTransport(uds=str(replica.socket)))
            body = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}]}
            while True:
                try:
                    answer = client.post("/v2/models/digits/infer", json=body)
                except httpx.ConnectError:
                    return
                except httpx.TransportError as failure:
                    lost.append(repr(failure))
                    return
                answered.append(answer.status_code)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(answered) < 50:
            time.sleep(0.01)
        code = replica.stop()
        for thread in threads:
            thread.join(10)

        assert code == 0
        assert set(answered) == {200}
        assert lost == []

    def test_draining_is_not_ready(self, start_replica: Starter, package: Package) -> None:
        """After SIGTERM nobody new connects, ready says 503, and a request that is made is still answered."""
        replica = start_replica(package, limits={"drain_seconds": 3.0})
        clients = [
            httpx.Client(base_url="http://r", transport=httpx.HTTPTransport(uds=str(replica.socket))) for _ in range(2)
        ]
        for client in clients:
            assert client.get("/v2/health/ready").status_code == 200
        replica.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 2.5
        while replica.socket.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        ready = clients[0].get("/v2/health/ready")
        answer = clients[1].post("/invocations", json={"inputs": [[0.0] * 64]})

        assert (ready.status_code, ready.json()["reason"]) == (503, "draining")
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"
        with pytest.raises(httpx.ConnectError):
            clients[0].get("/v2/health/ready")
        assert replica.process.wait(15) == 0

    def test_stale_socket_is_replaced_and_a_live_one_is_not(self, start_replica: Starter, package: Package) -> None:
        """After kill -9 the name is free again; while a replica lives, a second one refuses."""
        first = start_replica(package)
        with pytest.raises(RuntimeError, match="another replica listens"):
            start_again(package, first)
        first.http.close()
        first.process.kill()
        first.process.wait()

        assert first.socket.exists()
        second = start_again(package, first)
        try:
            assert second.poll() is None
        finally:
            second.terminate()
            assert second.wait(15) == 0

    @pytest.mark.parametrize(
        ("config", "words"),
        [
            ({"digest": "sha256:" + "0" * 64}, "package manifest: recorded 000000000000"),
            ({"package_path": "/nowhere"}, "no such package folder"),
            ({"sample_rate": 2}, "sample_rate must be"),
            ({"socket": "/tmp/" + "x" * 120}, "at most 100 bytes"),
            ({"modle": "digits"}, "did you mean 'model'"),
            ({"limits": {"body_bites": 1}}, "did you mean 'body_bytes'"),
            ({"limits": {"rows": True}}, "must be a positive number"),
            ({"model": "../x"}, "MLC-101"),
        ],
    )
    def test_refused_configuration(
        self, start_replica: Starter, package: Package, config: dict[str, Any], words: str
    ) -> None:
        """One line in the log, exit code 3, no socket."""
        with pytest.raises(RuntimeError) as caught:
            start_replica(package, **config)

        assert words in str(caught.value)
        assert "Traceback" not in str(caught.value)


def start_again(package: Package, replica: Replica) -> Any:
    """Start a second process on a replica's own configuration."""
    import subprocess
    import sys

    process = subprocess.Popen(
        [sys.executable, "-m", "mlcycle_nb.serving.replica", "--config", str(replica.folder / "replica.json")],
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            assert process.stderr is not None
            raise RuntimeError(process.stderr.read().decode())
        try:
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(replica.socket))) as client:
                if replica.process.poll() is not None and client.get("http://r/v2/health/ready").status_code == 200:
                    return process
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    process.kill()
    raise RuntimeError("no answer in time")


class TestPythonPackages:
    """Code runs in the replica, signed; what it gets wrong is its version's error."""

    def serve(self, start_replica: Starter, tmp_path: Path, model: Any, **config: Any) -> Replica:
        key = Ed25519PrivateKey.generate()
        store = PackageStore(tmp_path / "packages")
        package = build_package(model, example=np.ones((4, 64)), out=store, signer=key)
        return start_replica(package, **{"trusted_keys": [public_key_hex(key)], **config})

    def test_unsigned_is_refused(self, start_replica: Starter, tmp_path: Path) -> None:
        """Without the workspace's key in its configuration a replica does not load code."""
        with pytest.raises(RuntimeError, match="another workspace signed it"):
            self.serve(start_replica, tmp_path, lambda rows: np.ones((len(rows), 2)) / 2, trusted_keys=[])

    @pytest.mark.parametrize(
        ("fault", "status", "reason"),
        [
            ("nan", 502, "model_output_invalid"),
            ("rows", 502, "model_output_invalid"),
            ("shape", 502, "model_output_invalid"),
            ("raise", 500, "model_failed"),
        ],
    )
    def test_bad_output(self, start_replica: Starter, tmp_path: Path, fault: str, status: int, reason: str) -> None:
        """56: NaN, a wrong row count or shape are 502 and counted; an exception is 500 and counted; others go on."""

        def model(rows: Any) -> Any:
            import numpy

            answer = numpy.full((len(rows), 2), 0.5)
            if (rows[:, 0] < 0).any():
                if fault == "raise":
                    raise ValueError("negative")
                if fault == "nan":
                    answer[rows[:, 0] < 0] = numpy.nan
                elif fault == "rows":
                    answer = answer[:1].repeat(len(rows) + 1, axis=0)
                else:
                    answer = answer[:, :1]
            return answer

        replica = self.serve(start_replica, tmp_path, model)
        bad = replica.infer(np.full((2, 64), -1.0))
        good = replica.infer(np.ones((2, 64)))

        assert (bad.status_code, bad.json()["reason"]) == (status, reason)
        assert good.status_code == 200
        counted = "mlcycle_replica_model_errors_total" if fault == "raise" else "mlcycle_replica_output_invalid_total"
        assert replica.metric(counted) == 1

    def test_slow_model_keeps_health_answering(self, start_replica: Starter, tmp_path: Path) -> None:
        """While the model thinks, the event loop lives, and what queues is answered together."""

        def model(rows: Any) -> Any:
            import time

            import numpy

            if (rows[:, 0] < 0).any():
                time.sleep(1.0)
            return numpy.full((len(rows), 2), 0.5)

        replica = self.serve(start_replica, tmp_path, model)
        with ThreadPoolExecutor(9) as pool:
            slow = pool.submit(replica.infer, np.full((1, 64), -1.0))
            deadline = time.monotonic() + 5
            while replica.metric("mlcycle_replica_queued_rows") and time.monotonic() < deadline:
                time.sleep(0.01)
            queued = [pool.submit(replica.infer, np.ones((1, 64))) for _ in range(8)]
            live = replica.http.get("/v2/health/live")

            assert live.status_code == 200
            assert slow.result().status_code == 200
            assert {item.result().status_code for item in queued} == {200}
