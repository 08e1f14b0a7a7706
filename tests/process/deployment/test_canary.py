"""Canaries under load, with a real gateway and real replicas: promoted, or stopped for what they answer."""

from __future__ import annotations

import pytest

from mlcycle_nb.store.audit import events, verify

from .conftest import ENVIRONMENT, Deployed

pytestmark = pytest.mark.timeout(400)


def test_first_deployment_answers(deployed: Deployed) -> None:
    """A first version is served to callers with a key, and names itself in its answers."""
    deployed.up(1)

    with deployed.manager.client("digits", ENVIRONMENT) as client:
        answer = client.predict(deployed.built.rows[:5])

    assert answer.version == 1
    assert answer.labels is not None
    assert len(answer.labels) == 5
    assert answer.prediction_id


def test_a_good_canary_is_promoted_without_a_failed_request(deployed: Deployed) -> None:
    """Every weight is tried under load, all requests are answered, and the audit trail tells the story."""
    deployed.up(1)
    with deployed.load() as load:
        handle = deployed.deploy(
            2, strategy="canary", steps="10,40,100", interval="1s", min_requests=100, mirror=50, warm="1s"
        )
        record = handle.wait(120)
        load.wait_for(len(load.answers) + 200)

    print(record.history, load)
    assert record.phase == "completed", record.reason
    assert load.failed == []
    assert set(load.versions()) == {"1", "2"}
    status = deployed.status()
    assert status.stable == 2
    splits = [
        entry["detail"]["split"] for entry in events(deployed.store, subject=f"service:{ENVIRONMENT}/digits")
        if entry["event"] == "service.routed"
    ]  # fmt: skip
    weights = [sum(one["weight"] for one in split if one["version"] == 2) for split in splits]
    assert weights == [0, 1000, 4000, 10000]
    assert verify(deployed.store).intact
