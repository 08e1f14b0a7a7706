"""Public clients of others talk to the replica: Triton's HTTP client, and MLflow's scoring payloads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from mlcycle_nb.packages import Package
from mlcycle_nb.serving.replica import build_app
from mlcycle_nb.serving.replica_config import ReplicaConfig
from mlcycle_nb.serving.server import make_server

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def address(package: Package) -> Iterator[str]:
    """The replica's application on a loopback port: Triton's client speaks TCP only."""
    form = {
        "package_path": str(package.path), "digest": package.digest, "model": "digits", "version": 7,
        "environment": "dev", "socket": "/unused",
    }  # fmt: skip
    server = make_server(build_app(ReplicaConfig.from_json(form, where="test")), host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("binary_in", [False, True], ids=["json-in", "binary-in"])
@pytest.mark.parametrize("binary_out", [False, True], ids=["json-out", "binary-out"])
def test_triton_client(address: str, package: Package, binary_in: bool, binary_out: bool) -> None:
    """Health, metadata, and inference in all four mixes of JSON and binary tensors."""
    triton = pytest.importorskip("tritonclient.http")
    inputs, outputs = package.golden()
    client = triton.InferenceServerClient(address)
    try:
        tensor = triton.InferInput("input", list(inputs["input"].shape), "FP32")
        tensor.set_data_from_numpy(inputs["input"], binary_data=binary_in)
        wanted = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("label", "probabilities")]
        answer = client.infer("digits", [tensor], outputs=wanted, request_id="r:1")

        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("digits")
        assert client.is_model_ready("digits", "7")
        assert client.get_model_metadata("digits")["name"] == "digits"
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        assert answer.get_response()["id"] == "r:1"
        np.testing.assert_array_equal(answer.as_numpy("label"), outputs["label"])
        np.testing.assert_allclose(answer.as_numpy("probabilities"), outputs["probabilities"], atol=1e-4)
    finally:
        client.close()


def test_triton_client_reads_our_errors(address: str) -> None:
    """The message of a refusal reaches the caller."""
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(address)
    try:
        tensor = triton.InferInput("input", [1, 3], "FP32")
        tensor.set_data_from_numpy(np.zeros((1, 3), dtype=np.float32))
        with pytest.raises(triton.InferenceServerException, match=r"the model takes \[1, 64\]"):
            client.infer("digits", [tensor])
    finally:
        client.close()


@pytest.mark.parametrize("form", ["split", "records", "tensor"])
def test_mlflow_payloads(address: str, package: Package, digits: Any, form: str) -> None:
    """Bodies made by MLflow's own serialisation are understood."""
    pandas = pytest.importorskip("pandas")
    serving = pytest.importorskip("mlflow.models.utils")
    rows = digits[0][:4]
    frame = pandas.DataFrame(rows, columns=list(package.feature_names))
    if form == "tensor":
        body = serving.convert_input_example_to_serving_input(rows)
    elif form == "split":
        body = serving.convert_input_example_to_serving_input(frame)
    else:
        body = '{"dataframe_records": ' + frame.to_json(orient="records") + "}"
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"http://{address}/invocations", content=body, headers=headers, trust_env=False)

    assert answer.json() == {"predictions": digits[1][:4].tolist()}
