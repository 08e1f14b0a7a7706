"""Canaries that have to go: quietly wrong ones, aborted ones, and those of a killed supervisor."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mlcycle_nb.deployment.records import Revision, Rollout, Service
from mlcycle_nb.errors import Conflict, Refused
from mlcycle_nb.serving.labels import LabelStore, from_mapping

from .conftest import ENVIRONMENT, Deployed, until

pytestmark = pytest.mark.timeout(400)


def weights(deployed: Deployed) -> dict[int, int]:
    """Return what the gateway says."""
    from mlcycle_nb.serving.gateway import Gateway

    return Gateway(deployed.workspace.context, ENVIRONMENT).in_force().get("digits", {})


def revision(deployed: Deployed, version: int) -> Revision:
    return deployed.store.get(Revision, f"{ENVIRONMENT}/digits/{version}")


def test_a_quietly_wrong_model_goes_back_by_disagreement(deployed: Deployed) -> None:
    """Same latency, no errors, classes permuted: only the answers of mirrored requests tell."""
    deployed.up(1)
    with deployed.load() as load:
        handle = deployed.deploy(3, strategy="canary", steps="5,100", interval="30s", mirror=100)
        record = handle.wait(120)
        load.wait_for(1500, timeout=300)  # enough for the simulations below to decide

    print(record.history, load)
    assert record.phase == "rolled_back"
    assert "disagreement" in record.reason
    assert load.failed == []
    assert weights(deployed) == {1: 10000}
    assert load.versions()["3"] < 0.15 * len(load.answers)
    verdicts = {m["name"]: m["outcome"] for m in deployed.store.observed(Rollout, record.id)["judgement"]["metrics"]}
    assert verdicts["disagreement"] == "failed"
    assert verdicts["error rate"] != "failed"
    until(lambda: revision(deployed, 3).phase == "stopped")
    assert deployed.workspace.context.processes.names(f"replica-{ENVIRONMENT}.digits.3.") == []

    # What was recorded meanwhile says the same of it, and of a good one the opposite, without a request.
    again = deployed.manager.simulate("digits/3", ENVIRONMENT, "10m", steps="5,100", interval="30s", mirror=100)
    good = deployed.manager.simulate("digits/2", ENVIRONMENT, "10m", steps="50,100", interval="1s", min_requests=50)
    print(again, good)
    assert again.outcome == "rolled_back"
    assert "disagreement" in again.record.reason
    assert good.outcome == "completed"
    assert weights(deployed) == {1: 10000}


def test_one_answer_for_everything_goes_back_without_copies(deployed: Deployed) -> None:
    """Nothing is mirrored and no label comes: the kinds of its answers give it away."""
    deployed.up(1)
    with deployed.load() as load:
        handle = deployed.deploy(4, strategy="canary", steps="20,100", interval="30s", mirror=0, watch="latency")
        record = handle.wait(120)

    print(record.history, load)
    assert record.phase == "rolled_back"
    assert "prediction shift: class 3 is 100.0% of" in record.reason
    assert load.failed == []
    assert weights(deployed) == {1: 10000}


def test_late_labels_send_it_back(deployed: Deployed) -> None:
    """Labels that arrive while the canary runs count for the answers that each version gave."""
    deployed.up(1)
    watched = "latency,prediction-shift,disagreement"
    with deployed.load() as load:
        handle = deployed.deploy(3, strategy="canary", steps="30,100", interval="60s", mirror=0, watch=watched)
        until(lambda: load.versions().get("3", 0) > 150)
        before = handle.record.phase
        answers = [one for one in load.answers if one.status == 200 and one.label is not None]
        # All are labelled as version 1 answers, which is right nearly always; version 3 is another class each time.
        labels = {one.prediction_id: one.label if one.version == "1" else (one.label + 1) % 10 for one in answers}
        folder = deployed.workspace.context.folder("labels")
        LabelStore(folder, ENVIRONMENT, "digits").add(from_mapping(labels), datetime.now(UTC))
        record = handle.wait(120)

    print(record.history, load)
    assert before == "progressing"
    assert record.phase == "rolled_back"
    assert record.reason.startswith("accuracy: wrong answers 100.00% of")
    assert load.failed == []


def test_kill_9_of_the_supervisor_converges(deployed: Deployed) -> None:
    """Traffic keeps its weights while nobody controls it; the next supervisor goes on with what was counted."""
    deployed.up(1)
    with deployed.load() as load:
        handle = deployed.deploy(
            2, strategy="canary", steps="20,60,100", interval="1s", min_requests=150, mirror=50, warm="1s"
        )
        until(lambda: handle.record.in_force_since is not None)
        until(lambda: deployed.store.observed(Rollout, handle.id).get("judgement", {}).get("step_requests", 0) > 20)
        deployed.kill_supervisor()
        counted = deployed.store.observed(Rollout, handle.id)["judgement"]["step_requests"]
        before = weights(deployed)
        load.wait_for(len(load.answers) + 300)
        assert weights(deployed) == before

        deployed.workspace.context.ensure_supervisor()
        record = handle.wait(120)

    print(record.history, load)
    assert counted > 0
    assert record.phase == "completed", record.reason
    assert load.failed == []
    assert weights(deployed) == {2: 10000}


def test_abort_under_load_and_the_second_deploy(deployed: Deployed) -> None:
    """While one rollout runs the next is refused with its holder; an abort brings everything back."""
    deployed.up(1)
    with deployed.load() as load:
        handle = deployed.deploy(2, strategy="canary", steps="50,100", interval="60s")
        until(lambda: handle.record.in_force_since is not None)
        with pytest.raises(Conflict, match=rf"{handle.id} of digits/2 by .* is progressing, step 1/2.*--supersede"):
            deployed.deploy(3, strategy="canary")
        load.wait_for(len(load.answers) + 100)
        deployed.manager.abort("digits", reason="second thoughts")
        record = handle.wait(120)
        load.wait_for(len(load.answers) + 100)

    assert (record.phase, record.reason) == ("aborted", "second thoughts")
    assert load.failed == []
    assert weights(deployed) == {1: 10000}
    assert deployed.store.get(Service, f"{ENVIRONMENT}/digits").stable == 1


def test_no_traffic_holds(deployed: Deployed) -> None:
    """A canary that nobody asks anything keeps its weight: no data is never good."""
    deployed.up(1)
    handle = deployed.deploy(2, strategy="canary", steps="50,100", interval="1s", deadline="4s")

    record = handle.wait(120)

    assert record.phase == "rolled_back"
    assert "waiting for requests: 0/100" in record.reason
    assert deployed.status().stable == 1


def test_rollback_and_the_first_deployment(deployed: Deployed) -> None:
    """There is nothing to roll back to at first; afterwards a stopped version comes back without a failed request."""
    deployed.up(1)
    with pytest.raises(Refused, match="nothing to roll back to"):
        deployed.manager.rollback_deployment("digits", ENVIRONMENT)
    deployed.up(2, warm="1s")
    until(lambda: revision(deployed, 1).phase == "stopped")

    with deployed.load() as load:
        load.wait_for(100)
        record = deployed.manager.rollback_deployment("digits", ENVIRONMENT, reason="it was better").wait(120)
        load.wait_for(len(load.answers) + 200)

    assert record.phase == "completed"
    assert load.failed == []
    assert weights(deployed) == {1: 10000}
    assert load.answers[-1].version == "1"
