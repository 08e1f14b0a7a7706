"""Shadows under load, with a real gateway and real replicas: compared, judged, never served."""

from __future__ import annotations

import pytest

from mlcycle_nb.deployment.records import Revision, Rollout
from mlcycle_nb.errors import Refused
from mlcycle_nb.serving.gateway import Gateway

from .conftest import ENVIRONMENT, Deployed, until

pytestmark = pytest.mark.timeout(150)


def in_force(deployed: Deployed) -> dict[int, int]:
    """Return what the gateway says."""
    return Gateway(deployed.workspace.context, ENVIRONMENT).in_force().get("digits", {})


def verdicts(deployed: Deployed, rollout: Rollout) -> dict[str, str]:
    metrics = deployed.store.observed(Rollout, rollout.id)["judgement"]["metrics"]
    return {metric["name"]: metric["outcome"] for metric in metrics}


def test_a_good_shadow_passes_and_a_canary_follows(deployed: Deployed) -> None:
    """Stable answers everything meanwhile; afterwards %promote begins a canary."""
    deployed.up(1)
    with deployed.load(per_second=150) as load:
        handle = deployed.deploy(2, strategy="shadow", mirror=100, duration="60s", compare=400, watch="latency")
        until(lambda: handle.record.in_force_since is not None)
        with pytest.raises(Refused, match="has not passed yet"):
            deployed.manager.promote(handle.id)
        record = handle.wait(60)
        load.wait_for(len(load.answers) + 50)
        print(record.history, load, handle.panel().text(handle.panel().snapshot()))

        assert (record.phase, record.verdict) == ("compared", "passed")
        assert "requests were compared, 400 requests were asked for" in record.reason
        assert load.failed == []
        assert set(load.versions()) == {"1"}
        assert in_force(deployed) == {1: 10_000}
        assert deployed.status().stable == 1
        revision = deployed.store.get(Revision, f"{ENVIRONMENT}/digits/2")
        assert revision.phase == "ready", "a canary finds warm replicas"

        canary = deployed.manager.promote()
        until(lambda: canary.record.in_force_since is not None)
        assert (canary.record.strategy, canary.record.target) == ("canary", 2)
        deployed.manager.abort(canary.id)
        canary.wait(30)
    assert load.failed == []


def test_a_quietly_wrong_shadow_fails_with_the_rows_that_tell(deployed: Deployed) -> None:
    """Permuted classes: failed at once, with the surest disagreements; no canary follows."""
    deployed.up(1)
    with deployed.load(per_second=150) as load:
        handle = deployed.deploy(3, strategy="shadow", mirror="50%", duration="60s", watch="latency")
        record = handle.wait(60)
        load.wait_for(len(load.answers) + 50)

    print(record.history, load)
    assert (record.phase, record.verdict) == ("compared", "failed")
    assert "disagreement" in record.reason
    assert load.failed == []
    assert set(load.versions()) == {"1"}
    found = deployed.manager.disagreements()
    assert 0 < len(found) <= 20
    assert [one.score for one in found.rows] == sorted((one.score for one in found.rows), reverse=True)
    served = {answer.prediction_id: answer.label for answer in load.answers}
    assert all(served[one.prediction_id] == one.stable != one.new for one in found.rows)
    panel = handle.panel()
    state = panel.snapshot()
    for face in (panel.text(state), panel.html(state)):
        assert "where the two versions differ most" in face
        assert f"{found.rows[0].prediction_id[:8]}…" in face
    with pytest.raises(Refused, match=r"no canary follows: the shadow .* is failed: disagreement"):
        deployed.manager.promote("digits")
    until(lambda: deployed.store.get(Revision, f"{ENVIRONMENT}/digits/3").phase == "stopped")


@pytest.mark.faults
def test_nobody_asks(deployed: Deployed) -> None:
    """Its time ends without a request: inconclusive, which is no pass."""
    deployed.up(1)

    record = deployed.deploy(2, strategy="shadow", duration="2s").wait(40)

    assert (record.phase, record.verdict) == ("compared", "inconclusive")
    assert "0 requests were compared, its 2 s are over" in record.reason
    assert "waiting for requests: 0/100" in record.reason


@pytest.mark.faults
def test_paused_and_aborted(deployed: Deployed) -> None:
    """A paused shadow outlives its time; an abort leaves stable as it was."""
    deployed.up(1)
    with deployed.load(per_second=100) as load:
        handle = deployed.deploy(2, strategy="shadow", mirror=100, compare=50, duration="60s", watch="latency")
        until(lambda: handle.record.in_force_since is not None)
        deployed.manager.pause(handle.id)

        def compared() -> int:
            return int((deployed.store.observed(Rollout, handle.id).get("judgement") or {}).get("step_requests", 0))

        until(lambda: compared() > 100)
        assert handle.record.phase == "paused"
        deployed.manager.abort(handle.id, reason="second thoughts")
        record = handle.wait(30)
        load.wait_for(len(load.answers) + 30)

    assert (record.phase, record.reason, record.verdict) == ("aborted", "second thoughts", "")
    assert load.failed == []
    assert set(load.versions()) == {"1"}
    assert Gateway(deployed.workspace.context, ENVIRONMENT).in_force() == {"digits": {1: 10_000}}
