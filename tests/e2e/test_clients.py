"""Clients of others talk to a deployed model with a key, and are refused without one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from .conftest import GOOD, MODEL, Served

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def triton(served: Served) -> Iterator[Any]:
    """Triton's HTTP client."""
    client = pytest.importorskip("tritonclient.http").InferenceServerClient(served.address)
    yield client
    client.close()


@pytest.fixture(scope="module")
def expected(served: Served) -> list[int]:
    """What our own client is told about the first four rows."""
    with served.workspace.deployment.client(MODEL, "dev") as client:
        labels = client.predict(served.rows[:4]).labels
    assert labels is not None
    return [int(label) for label in labels]


class TestTriton:
    """`tritonclient[http]` through the gateway."""

    def test_health_and_metadata(self, served: Served, triton: Any) -> None:
        """Live, ready, and what the model takes and gives."""
        headers = served.authorized

        assert triton.is_server_live(headers=headers)
        assert triton.is_server_ready(headers=headers)
        assert triton.is_model_ready(MODEL, headers=headers)
        assert triton.is_model_ready(MODEL, str(GOOD), headers=headers)
        metadata = triton.get_model_metadata(MODEL, headers=headers)
        assert (metadata["name"], metadata["versions"]) == (MODEL, [str(GOOD)])
        assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 64]}]

    @pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
    def test_infer(self, served: Served, triton: Any, expected: list[int], binary: bool) -> None:
        """Tensors as JSON and as bytes, both ways, get the same answers; the request's id comes back."""
        import tritonclient.http as http

        tensor = http.InferInput("input", [4, 64], "FP32")
        tensor.set_data_from_numpy(served.rows[:4], binary_data=binary)
        wanted = [http.InferRequestedOutput(name, binary_data=binary) for name in ("label", "probabilities")]
        for version in ("", str(GOOD)):
            answer = triton.infer(
                MODEL, [tensor], model_version=version, outputs=wanted, request_id="r1", headers=served.authorized
            )

            assert answer.as_numpy("label").tolist() == expected
            assert np.allclose(answer.as_numpy("probabilities").sum(axis=1), 1, atol=1e-5)
            assert answer.get_response()["id"] == "r1"

    @pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}], ids=["no key", "wrong key"])
    def test_refused(self, served: Served, triton: Any, headers: dict[str, str]) -> None:
        """Without a right key the client hears 401."""
        import tritonclient.http as http

        tensor = http.InferInput("input", [1, 64], "FP32")
        tensor.set_data_from_numpy(served.rows[:1])
        with pytest.raises(http.InferenceServerException, match=r"401|key") as refused:
            triton.infer(MODEL, [tensor], headers=headers)

        assert "401" in str(refused.value.status())


def scoring_bodies(rows: np.ndarray) -> dict[str, Any]:
    """Return a body in each of MLflow's four forms, for rows whose features are named f0 to f63."""
    names = [f"f{position}" for position in range(rows.shape[1])]
    records = [dict(zip(names, row, strict=True)) for row in rows.tolist()]
    return {
        "inputs": {"inputs": rows.tolist()},
        "instances": {"instances": rows.tolist()},
        "dataframe_split": {"dataframe_split": {"columns": names, "data": rows.tolist()}},
        "dataframe_records": {"dataframe_records": records},
    }


class TestMlflow:
    """MLflow's scoring requests at ``/models/NAME/invocations``."""

    @pytest.mark.parametrize("form", ["inputs", "instances", "dataframe_split", "dataframe_records"])
    def test_forms(self, served: Served, expected: list[int], form: str) -> None:
        """Each of the four forms is answered."""
        body = scoring_bodies(served.rows[:4])[form]
        answer = httpx.post(
            f"{served.url}/models/{MODEL}/invocations", json=body, headers=served.authorized, trust_env=False
        )

        assert answer.status_code == 200, answer.text
        assert answer.json() == {"predictions": expected}
        assert answer.headers["x-model-version"] == str(GOOD)

    def test_mlflow_own_client(self, served: Served, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        """MLflow's scoring client, given the key as a session header, understands the answers."""
        pandas = pytest.importorskip("pandas")
        scoring = pytest.importorskip("mlflow.pyfunc.scoring_server.client")
        import requests

        plain = requests.post

        def with_key(*arguments: Any, **options: Any) -> Any:
            headers = {**(options.pop("headers", None) or {}), **served.authorized}
            return plain(*arguments, headers=headers, **options)

        monkeypatch.setattr(requests, "post", with_key)  # MLflow's client has no place for a header
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        client = scoring.ScoringServerClient("127.0.0.1", 0)
        client.url_prefix = f"{served.url}/models/{MODEL}"
        frame = pandas.DataFrame(served.rows[:4], columns=[f"f{position}" for position in range(64)])
        answer = client.invoke(frame)

        assert [int(row) for row in answer.get_predictions().iloc[:, 0]] == expected


PLACES = (
    ("GET", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/models/digits"),
    ("GET", "/v2/models/nothing"),
    ("POST", "/v2/models/digits/infer"),
    ("POST", "/v2/models/nothing/infer"),
    ("POST", "/v2/models/digits/versions/1/infer"),
    ("POST", "/v2/models/digits/versions/99/infer"),
    ("POST", "/models/digits/invocations"),
    ("POST", "/models/nothing/invocations"),
)


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer nothing-like-it"}, {"authorization": "Basic dGVzdGVyOng="}, {"x-api-key": "x"}],
    ids=["no key", "wrong key", "basic", "wrong api key"],
)
def test_nothing_is_told_without_a_key(served: Served, headers: dict[str, str]) -> None:
    """401 with the same words everywhere: a stranger cannot tell a model that exists from one that does not."""
    body = scoring_bodies(served.rows[:1])["inputs"]
    with httpx.Client(base_url=served.url, headers=headers, trust_env=False) as client:
        answers = [client.request(method, path, json=body if method == "POST" else None) for method, path in PLACES]

    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].json()["code"].startswith("MLC-")


def test_a_revoked_key_is_refused(served: Served) -> None:
    """A key opens the gateway until it is revoked."""
    from .conftest import until

    deployment = served.workspace.deployment
    key = deployment.add_consumer("leaver", "dev").key
    with httpx.Client(base_url=served.url, headers={"authorization": f"Bearer {key}"}, trust_env=False) as client:
        until(lambda: client.get("/v2/models/digits").status_code == 200)
        deployment.revoke_consumer("leaver", "dev")
        until(lambda: client.get("/v2/models/digits").status_code == 401)
