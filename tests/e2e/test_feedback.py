"""Late labels through the real gateway, with a consumer's key: recorded once, and not lost by any kill."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import httpx
import pytest

from mlcycle_nb.serving.labels import LabelStore

from .conftest import ENVIRONMENT, GOOD, MODEL, Served, kill, until

pytestmark = pytest.mark.timeout(180)
PATH = f"/v2/models/{MODEL}/feedback"


@pytest.fixture
def gateway(served: Served) -> Any:
    served.bring_stable(GOOD)
    with httpx.Client(base_url=served.url, headers=served.authorized, trust_env=False, timeout=20) as client:
        until(lambda: client.post(PATH, json={"feedback": [{"id": "nobody", "label": 0}]}).status_code == 200)
        yield client


def predict(served: Served, count: int) -> dict[str, int]:
    """Return the answers to some requests of one row, by prediction id, once they are in the log."""
    from mlcycle_nb.serving.prediction_log import read_predictions

    with served.workspace.deployment.client(MODEL, ENVIRONMENT) as client:
        answers = [client.predict(served.rows[n : n + 1]) for n in range(count)]
    found = {one.prediction_id: int(one.labels[0]) for one in answers if one.labels is not None}
    root = served.workspace.home / "predictions"
    until(lambda: set(found) <= set(read_predictions(root, ENVIRONMENT, MODEL)["prediction_id"].to_pylist()))
    return found


def feedback(labels: dict[str, Any]) -> dict[str, Any]:
    return {"feedback": [{"id": key, "label": label} for key, label in labels.items()]}


def test_labels_are_joined_and_an_untold_or_wrong_key_gets_nothing(gateway: httpx.Client, served: Served) -> None:
    answers = predict(served, 25)
    wrong = dict(list(answers.items())[:5])
    labels = {**answers, **{key: (label + 1) % 10 for key, label in wrong.items()}}
    first = gateway.post(PATH, json=feedback(labels))
    again = gateway.post(PATH, json=feedback(labels))
    torn = gateway.post(PATH, json=feedback({**wrong, "not-yet-seen": 3}))
    [found] = [p for p in served.workspace.monitoring.performance(MODEL, environment=ENVIRONMENT) if p.version == GOOD]

    assert (first.status_code, first.json()["recorded"], first.json()["unknown"]) == (200, 25, 0)
    assert (again.status_code, again.json()["repeated"]) == (200, 25)
    assert (torn.status_code, torn.json()["refused"], torn.json()["unknown_ids"]) == (207, 5, ["not-yet-seen"])
    assert found.labelled >= 25
    assert found.unknown >= 1
    assert "of no logged prediction" in found.why
    for headers, status in (({"authorization": ""}, 401), ({"authorization": "Bearer " + "x" * 40}, 401)):
        assert gateway.post(PATH, json=feedback(labels), headers=headers).status_code == status
    assert gateway.get(PATH).status_code == 405
    assert gateway.post(PATH, content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert gateway.post("/v2/models/nomodel/feedback", json=feedback(labels)).status_code == 404


def test_labels_are_no_requests_of_the_model(gateway: httpx.Client, served: Served) -> None:

    def callers() -> dict[str, int]:
        found = served.workspace.deployment.callers(MODEL, environment=ENVIRONMENT)
        return {caller.consumer: caller.requests for caller in found}

    before = callers()
    for number in range(10):
        gateway.post(PATH, json=feedback({f"uncounted-{number}": 1}))
    predict(served, 3)  # the client's own requests come later in the same log
    until(lambda: sum(callers().values()) >= sum(before.values()) + 3)

    assert callers().get("tester", 0) == before.get("tester", 0)


@pytest.mark.parametrize("victim", ["labels", "gateway", "replicas"])
def test_no_acknowledged_label_is_lost_by_a_kill(gateway: httpx.Client, served: Served, victim: str) -> None:
    told: list[str] = []
    refused = 0
    stop = threading.Event()

    def send() -> None:
        nonlocal refused
        number = 0
        with httpx.Client(base_url=served.url, headers=served.authorized, trust_env=False, timeout=20) as client:
            while not stop.is_set():
                number += 1
                key = f"{victim}-{threading.get_ident()}-{number}"
                try:
                    answer = client.post(PATH, json=feedback({key: 1}))
                except httpx.HTTPError:
                    refused += 1
                    continue
                if answer.status_code == 200:
                    told.append(key)
                else:
                    refused += 1

    senders = [threading.Thread(target=send) for _ in range(3)]
    for thread in senders:
        thread.start()
    try:
        until(lambda: len(told) > 30)
        names = served.workspace.context.processes.names(
            {"labels": f"labels-{ENVIRONMENT}", "gateway": f"gateway-{ENVIRONMENT}", "replicas": "replica-"}[victim]
        )
        for name in names:
            kill(served.process(name))
        mark = len(told)
        until(lambda: len(told) > mark + 60)
    finally:
        stop.set()
        for thread in senders:
            thread.join()
    table = LabelStore(served.workspace.home / "labels", ENVIRONMENT, MODEL).all()
    assert table is not None
    kept = table["prediction_id"].to_pylist()

    assert names
    assert set(told) <= set(kept)
    assert len(kept) == len(set(kept))
    until(lambda: served.ready(GOOD) >= 2)


def test_a_suspended_intake_costs_predictions_nothing_and_is_replaced(gateway: httpx.Client, served: Served) -> None:
    name = f"labels-{ENVIRONMENT}"
    intake = served.process(name)
    os.kill(intake.pid, signal.SIGSTOP)
    assert len(predict(served, 5)) == 5

    until(lambda: served.workspace.context.processes.get(name) not in (None, intake))
    until(lambda: gateway.post(PATH, json=feedback({"after-a-stop": 1})).status_code == 200)
    assert not intake.alive()
