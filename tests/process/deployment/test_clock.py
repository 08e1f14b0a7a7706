"""The clock is set back in the middle of a canary: it is judged as before, and nothing waits for the difference."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from mlcycle_nb.deployment.analysis import AnalysisState
from mlcycle_nb.deployment.records import Rollout

from .conftest import Deployed, until

pytestmark = pytest.mark.timeout(180)

HOUR = timedelta(hours=1)


def set_back(deployed: Deployed, rollout: str) -> None:
    """Have everything that a rollout has noted lie an hour ahead, as after the machine's clock was set back by one.

    Nobody may set the clock of the machine that runs the tests.
    """
    deployed.kill_supervisor()
    store = deployed.store
    record, seen = store.get(Rollout, rollout), store.observed(Rollout, rollout)
    state = AnalysisState.from_json(seen["analysis"])
    assert record.in_force_since is not None
    assert state.paired_until is not None
    later = replace(record, phase_since=record.phase_since + HOUR, in_force_since=record.in_force_since + HOUR)
    with store.transaction(actor="test") as transaction:
        transaction.update(later, event="rollout.in_force")
    store.observe(Rollout, rollout, analysis=replace(state, paired_until=state.paired_until + HOUR).to_json())
    deployed.workspace.context.ensure_supervisor()


def judged(deployed: Deployed, rollout: str) -> bool:
    in_force = deployed.store.get(Rollout, rollout).in_force_since is not None
    return in_force and "analysis" in deployed.store.observed(Rollout, rollout)


def test_a_wrong_version_goes_back(deployed: Deployed) -> None:
    """Its answers are compared although they seem to be older than those that were compared before."""
    deployed.up(1)
    with deployed.load(per_second=20) as load:  # few: its verdict must not come before the clock is set back
        handle = deployed.deploy(3, strategy="canary", steps="20,100", interval="5m", mirror=20, watch="latency")
        until(lambda: judged(deployed, handle.id))
        set_back(deployed, handle.id)
        record = handle.wait(60)

    print(record.history, load)
    assert record.phase == "rolled_back"
    assert "disagreement" in record.reason
    assert "the clock was set back" in " ".join(event.text for event in record.history)
    assert load.failed == []


def test_a_good_version_is_promoted(deployed: Deployed) -> None:
    """After the interval that it was told, and not an hour later."""
    deployed.up(1)
    with deployed.load(per_second=120) as load:
        handle = deployed.deploy(2, strategy="canary", steps="50,100", interval="6s", mirror=20, watch="latency")
        until(lambda: judged(deployed, handle.id))
        set_back(deployed, handle.id)
        record = handle.wait(60)

    print(record.history, load)
    assert record.phase == "completed"
    assert load.failed == []
