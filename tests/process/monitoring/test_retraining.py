"""An alert opens a retraining: the job behind the version runs again, once, and what cannot be run again is refused."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from mlcycle_nb.errors import Refused
from mlcycle_nb.monitoring.actions import ACTIONS
from mlcycle_nb.monitoring.records import Alert, Monitor
from mlcycle_nb.packages import Package, PackageStore
from mlcycle_nb.training.retrain import Retrainings
from mlcycle_nb.workspace import Workspace

pytestmark = pytest.mark.timeout(180)
CELL = "import os\nlog(seen=base + len(os.listdir(folder)))\n"


def test_a_version_is_trained_again_from_its_record(workspace: Workspace, built: Package, tmp_path: Any) -> None:
    data = tmp_path / "data"
    data.mkdir()
    job = workspace.training.train_model("credit", CELL, {"folder": str(data), "base": 1}, params={"lr": 0.5}).result()
    (data / "later.csv").write_text("1,2\n")
    context = workspace.context
    package = PackageStore(context.folder("packages")).add(built.path)
    workspace.development.register_model("credit", package, run_id=job.run_id)
    common: dict[str, Any] = {"phase": "firing", "created_at": context.clock.now(), "monitor": "production/credit"}
    alert = Alert(id="alert-1", kind="model_drift", subjects=("accuracy",), versions=(1,), summary="", **common)
    monitor = Monitor(
        id="production/credit",
        phase="running",
        created_at=context.clock.now(),
        environment="production",
        model="credit",
        window=100,
        detectors=(),
        channels=(),
    )
    first = ACTIONS.load("retrain").take(context, monitor, alert)
    # The supervisor that died before it noted what it had done asks again: the same job, running or over.
    assert ACTIONS.load("retrain").take(context, monitor, alert) == first
    again = workspace.training.attach(first.split()[1]).result()
    assert ACTIONS.load("retrain").take(context, monitor, alert) == first

    assert again.id != job.id
    assert (again.params, again.seed, again.cell_digest) == (job.params, job.seed, job.cell_digest)
    assert again.reproduces == ""
    assert (job.metrics["seen"], again.metrics["seen"]) == (1, 2)  # names as they were, files as they are
    assert len(workspace.training.jobs("credit")) == 2

    # Another alert is another retraining, if there is still something to run.
    with (context.home / "training" / "jobs" / job.id / "cell.py").open("a") as cell:
        cell.write("# changed\n")
    retrainings = Retrainings(context, workspace.development)
    with pytest.raises(Refused, match="have changed since it ran"):
        retrainings.begin(str(job.run_id), cause="alert-2")
    shutil.rmtree(context.home / "training" / "jobs" / job.id)
    with pytest.raises(Refused, match="is gone"):
        retrainings.begin(str(job.run_id), cause="alert-3")
    assert len(workspace.training.jobs("credit")) == 2
