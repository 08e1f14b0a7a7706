"""A process that takes an alert's action is killed at each point, for good: the action happens once all the same."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlcycle_nb.deployment.policy import make_policy
from mlcycle_nb.deployment.records import DeploymentStrategy, Rollout
from mlcycle_nb.monitoring.action_records import AlertAction
from mlcycle_nb.monitoring.alerts import Evidence
from mlcycle_nb.monitoring.incidents import record_evidence
from mlcycle_nb.monitoring.records import Monitor
from mlcycle_nb.monitoring.windows import Streak
from mlcycle_nb.store.audit import events, verify
from mlcycle_nb.workspace import Workspace

pytestmark = pytest.mark.timeout(120)
SERVICE = "production/credit"
PROGRAM = """
import sys
from pathlib import Path
from mlcycle_nb.context import open_context
from mlcycle_nb.monitoring.action_controller import AlertActionController
from mlcycle_nb.settings import load_settings
from mlcycle_nb.supervisor.loop import ReconcileLoop
context = open_context(Path(sys.argv[1]), load_settings(), actor="supervisor")
loop = ReconcileLoop(context, [AlertActionController(context)])
for _ in range(4):
    loop.turn()
    loop.settle()
loop.close()
"""


def run(home: Path, crash_at: str = "") -> int:
    import os

    environment = {**os.environ, "MLCYCLE_CRASH_AT": crash_at}
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(home)], env=environment, check=False, timeout=100)
    return done.returncode


@pytest.mark.parametrize("point", ["action.after_claim", "action.after_effect"])
def test_at_every_point(workspace: Workspace, point: str) -> None:
    context = workspace.context
    now = context.clock.now()
    monitor = Monitor(
        id=SERVICE,
        phase="running",
        created_at=now,
        environment="production",
        model="credit",
        window=100,
        detectors=(),
        channels=(),
        on_alert={"data_drift": ("pause",)},
    )
    rollout = Rollout(
        id=f"{SERVICE}/r1",
        phase="progressing",
        created_at=now,
        environment="production",
        model="credit",
        target=2,
        digest="sha256:0",
        strategy=DeploymentStrategy.CANARY,
        replicas=1,
        policy=make_policy(DeploymentStrategy.CANARY),
        actor="ana",
        pid=1,
        phase_since=now,
    )
    with context.store.transaction(actor="ana") as transaction:
        transaction.insert(monitor, event="monitor.started")
        transaction.insert(rollout, event="rollout.created")
    evidence = Evidence(
        kind="data_drift", version=2, state="bad", subjects=("age",), summary="age moved", streaks={2: Streak(bad=1)}
    )
    record_evidence(context, monitor, evidence)

    assert run(context.home, point) == -signal.SIGKILL
    assert context.store.find(AlertAction)[0].phase == "running"
    assert run(context.home) == 0
    [action] = context.store.find(AlertAction)
    told = [event["event"] for event in events(context.store, subject=f"rollout:{rollout.id}", limit=10)]
    assert (action.phase, action.outcome) == ("done", f"rollout {rollout.id} was paused")
    assert told.count("rollout.paused") == 1
    assert context.store.get(Rollout, rollout.id).phase == "paused"
    assert verify(context.store).intact
    # The record of a rollout that never was must not be taken up by a supervisor.
    with context.store.transaction(actor="ana") as transaction:
        ended = context.store.get(Rollout, rollout.id)
        transaction.delete(ended, event="rollout.removed")
