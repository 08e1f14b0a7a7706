"""Replicas in an isolated environment: a model whose package needs what only that environment has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from mlcycle_nb.deployment.records import Revision
from mlcycle_nb.errors import NotFound, Refused
from mlcycle_nb.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent.parent / "development"))

from wheels import make_wheel

pytestmark = pytest.mark.timeout(400)

CELL = """
import torch

class Versioned(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Linear(2, 1)

    def forward(self, rows):
        import tiny_thing  # of the environment only

        if float(rows.sum()) > 1e9:  # what no graph can hold
            return self.scale(rows)
        return self.scale(rows) * 0 + float(tiny_thing.VERSION)

rows = torch.randn(40, 2)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows, rows[:, :1]), batch_size=8)
model = Versioned()
fit(model, torch.optim.SGD(model.parameters(), lr=0.1), loader, loss=torch.nn.functional.mse_loss, reference=rows)
"""


@pytest.fixture
def trained(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A version that was trained and packaged in `tiny-2`; `tiny-1` has another version of what it needs."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("UV_NO_CACHE", "1")
    offline: dict[str, Any] = {"find_links": [str(tmp_path / "wheels")], "no_index": True}
    for version in ("1.0", "2.0"):
        make_wheel(tmp_path / "wheels", version)
        name = f"tiny-{version[0]}"
        workspace.development.environments.create(name, [f"tiny-thing=={version}"], inherit=True, **offline).result()
    job = workspace.training.train_model("tiny", CELL, {}, environment="tiny-2").result()
    return workspace.training.register(job.id).reference


def test_a_package_is_served_where_its_packages_are(workspace: Workspace, trained: str) -> None:
    """And refused, before anything is moved, where they are not, or are others."""
    deployment = workspace.deployment
    with pytest.raises(NotFound, match="nowhere"):
        deployment.deploy_model(trained, "dev", runtime="nowhere")
    with pytest.raises(Refused, match=r"cannot run in environment tiny-1: .*nothing was moved"):
        deployment.deploy_model(trained, "dev", runtime="tiny-1")
    assert deployment.services() == []

    rollout = deployment.deploy_model(trained, "dev", replicas=1, runtime="tiny-2").wait(120)
    answer = deployment.client("tiny", "dev").predict(np.zeros((3, 2), np.float32))

    assert rollout.phase == "completed"
    assert "in environment tiny-2" in rollout.history[0].text
    assert np.asarray(answer.values).ravel().tolist() == [2.0, 2.0, 2.0]
    [revision] = workspace.context.store.find(Revision)
    assert revision.runtime == "tiny-2"
    interpreter = str(workspace.development.environments.python("tiny-2"))
    running = [workspace.context.processes.get(name) for name in workspace.context.processes.names("replica")]
    assert [psutil.Process(found.pid).cmdline()[0] for found in running if found] == [interpreter]
    with pytest.raises(Refused, match=r"referred to by .*replicas of tiny/1 in dev"):
        workspace.development.environments.delete("tiny-2")
