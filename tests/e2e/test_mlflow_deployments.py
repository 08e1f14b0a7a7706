"""MLflow's own deployment interface and command line, against a workspace with real replicas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException

from .conftest import BETTER, GOOD, MODEL, Served

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def client(served: Served) -> Any:
    """What MLflow finds for the target."""
    return get_deploy_client(f"mlcycle:{served.workspace.home}")


def test_what_is_deployed_is_listed(served: Served, client: Any) -> None:
    """Names, weights and the address, for one environment or for all."""
    listed = client.list_deployments()

    described = [one for one in listed if one["name"] == MODEL]  # other tests deploy other models here
    assert [(one["name"], one["endpoint"], one["stable"]) for one in described] == [(MODEL, "dev", GOOD)]
    assert client.list_deployments(endpoint="production") == []
    assert client.get_deployment(MODEL, endpoint="dev")["url"] == described[0]["url"]


def test_predict_gives_a_row_for_a_row(served: Served, client: Any) -> None:
    """Labels, the version that answered, and the ids by which labels can follow."""
    with served.workspace.deployment.client(MODEL, "dev") as own:
        expected = own.predict(served.rows[:4]).labels

    answer = client.predict(MODEL, pd.DataFrame(served.rows[:4]), endpoint="dev")

    assert expected is not None
    assert answer["label"].tolist() == expected.tolist()
    assert set(answer["version"]) == {GOOD}
    assert answer["prediction_id"].is_unique


def test_a_second_version_and_back(served: Served, client: Any) -> None:
    """An update waits for its rollout; so does the one that brings the first version back."""
    config = {"strategy": "all-at-once", "replicas": "1", "warm": "1s"}  # text, as the command line gives it

    made = client.update_deployment(MODEL, f"models:/{MODEL}/{BETTER}", config=config, endpoint="dev")
    assert made["stable"] == BETTER
    again = client.update_deployment(
        MODEL, f"models:/{MODEL}/{GOOD}", config={**config, "replicas": "2"}, endpoint="dev"
    )

    assert again["stable"] == GOOD


@pytest.mark.parametrize(
    ("call", "words", "code"),
    [
        (lambda c: c.create_deployment(MODEL, f"models:/{MODEL}/1", endpoint="dev"), "already", "RESOURCE_ALREADY"),
        (lambda c: c.update_deployment(MODEL, f"models:/{MODEL}/99", endpoint="dev"), "99", "RESOURCE_DOES_NOT_EXIST"),
        (lambda c: c.update_deployment("other", "models:/other/1", endpoint="dev"), "dev/digits", "RESOURCE_DOES_NOT"),
        (lambda c: c.update_deployment(MODEL, "models:/x/1", endpoint="dev"), "named after", "INVALID_PARAMETER"),
        (lambda c: c.update_deployment(MODEL, None, endpoint="dev"), "model version", "INVALID_PARAMETER"),
        (
            lambda c: c.update_deployment(MODEL, f"models:/{MODEL}/2", config={"stratgy": "canary"}, endpoint="dev"),
            "did you mean 'strategy'",
            "INVALID_PARAMETER",
        ),
        (
            lambda c: c.update_deployment(MODEL, f"models:/{MODEL}/2", config={"replicas": "two"}, endpoint="dev"),
            "replicas must be a number (got 'two')",
            "INVALID_PARAMETER",
        ),
        (lambda c: c.get_deployment(MODEL, endpoint="live"), "live", "RESOURCE_DOES_NOT_EXIST"),
        (lambda c: c.predict(inputs=[[1.0]]), "name of a deployment", "INVALID_PARAMETER"),
    ],
)
def test_a_refusal_is_mlflows_own_error(served: Served, client: Any, call: Any, words: str, code: str) -> None:
    """One line that says what to do; nothing has moved."""
    with pytest.raises(MlflowException) as refused:
        call(client)

    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.error_code.startswith(code)
    assert served.stable == GOOD


def test_the_command_line(served: Served, tmp_path: Path) -> None:
    """``mlflow deployments predict`` as in a terminal."""
    rows = tmp_path / "rows.json"
    pd.DataFrame(served.rows[:2]).to_json(rows, orient="records")
    target = f"mlcycle:{served.workspace.home}"

    def mlflow(*arguments: str) -> str:
        command = [sys.executable, "-m", "mlflow", "deployments", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), cwd=tmp_path, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert MODEL in mlflow("list", "-t", target)
    assert len(json.loads(mlflow("predict", "-t", target, "--name", f"dev/{MODEL}", "-I", str(rows)))["label"]) == 2


def test_delete_takes_out_of_service(client: Any, served: Served) -> None:
    """Twice is as good as once; the model can be deployed again."""
    with pytest.raises(MlflowException, match="no verdict for staging"):
        client.create_deployment(MODEL, f"{MODEL}/{GOOD}", endpoint="staging")
    trial = {"replicas": 1, "force": "true", "reason": "a trial"}
    client.create_deployment(MODEL, f"{MODEL}/{GOOD}", config=trial, endpoint="staging")
    client.delete_deployment(MODEL, endpoint="staging")
    client.delete_deployment(MODEL, endpoint="staging")

    assert client.list_deployments(endpoint="staging") == []
