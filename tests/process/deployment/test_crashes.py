"""The supervisor killed at every kind of step of a rollout: the next one ends it as if nothing had happened."""

from __future__ import annotations

import pytest

from mlcycle_nb.deployment.records import Revision
from mlcycle_nb.store.audit import verify
from mlcycle_nb.supervisor.start import find_supervisor

from .conftest import ENVIRONMENT, Deployed, until

pytestmark = pytest.mark.timeout(400)

POINTS = ["revision.after_spawn", "gateway.after_routes:2", "rollout.after_analysis", "rollout.after_complete"]


@pytest.mark.parametrize("point", POINTS)
def test_kill_9_at(deployed: Deployed, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """Under load: no request fails, the new version is stable, nothing runs twice."""
    deployed.up(1)
    deployed.kill_supervisor()
    monkeypatch.setenv("MLCYCLE_CRASH_AT", point)
    deployed.workspace.context.ensure_supervisor()
    monkeypatch.delenv("MLCYCLE_CRASH_AT")
    doomed = find_supervisor(deployed.workspace.home)
    assert doomed is not None
    with deployed.load() as load:
        handle = deployed.deploy(
            2, strategy="canary", steps="50,100", interval="500ms", min_requests=40, mirror=50, warm="1s"
        )
        until(lambda: not doomed.alive())
        load.wait_for(len(load.answers) + 50)
        deployed.workspace.context.ensure_supervisor()
        record = handle.wait(120)
        load.wait_for(len(load.answers) + 50)

    print(point, load, [event.text for event in record.history])
    assert record.phase == "completed", record.reason
    assert load.failed == []
    assert deployed.status().stable == 2
    until(lambda: deployed.store.get(Revision, f"{ENVIRONMENT}/digits/1").phase == "stopped")
    names = deployed.workspace.context.processes.names("replica-")
    assert names == [f"replica-{ENVIRONMENT}.digits.2.{index}" for index in (0, 1)]
    assert verify(deployed.store).intact
