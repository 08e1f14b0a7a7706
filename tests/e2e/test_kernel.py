"""Training outlives the kernel that asked for it: interrupt, restart and kill -9 of a real one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.supervisor.identity import ProcessIdentity
from mlcycle_nb.workspace import Workspace

from .conftest import kill, report, until

pytestmark = pytest.mark.timeout(300)
pytest.importorskip("ipykernel")

DEFINITIONS = """
%load_ext mlcycle_nb
import torch
generator = torch.Generator().manual_seed(5)
rows = torch.randn(400, 20, generator=generator)
labels = (rows[:, 0] > 0).long() + (rows[:, 1] > 0).long()
"""
CELL = """%%train kept --no-wait --register --epochs 2 --checkpoint-every 20 --param gate={gate}
import os, time

def collate(batch):
    # Slow until the test has done its worst.
    time.sleep(0.0 if os.path.exists(params.gate) else 0.2)
    return torch.utils.data.default_collate(batch)

model = torch.nn.Linear(20, 3)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows, labels), batch_size=1, collate_fn=collate)
fit(model, torch.optim.SGD(model.parameters(), lr=0.05), loader, loss=torch.nn.CrossEntropyLoss(), reference=rows)
"""


class Kernel:
    """A real IPython kernel, started as a notebook server starts one."""

    def __init__(self, home: Path, folder: Path) -> None:
        from jupyter_client.manager import KernelManager

        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(env={**os.environ, "MLCYCLE_HOME": str(home)}, cwd=str(folder))
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def run(self, code: str) -> str:
        """Run a cell and return what it printed and showed; an error is a failure of the test."""
        shown: list[str] = []

        def keep(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                shown.append(content["text"])
            elif message["msg_type"] in ("execute_result", "display_data"):
                shown.append(content["data"]["text/plain"])

        reply = self.client.execute_interactive(code, timeout=120, output_hook=keep)["content"]
        assert reply["status"] == "ok", "\n".join(reply.get("traceback", []))
        return "".join(shown)

    def restart(self) -> None:
        """Restart it as the notebook's button does."""
        self.manager.restart_kernel(now=True)
        self.client.wait_for_ready(timeout=120)

    def kill(self) -> None:
        """Kill -9."""
        identity = ProcessIdentity.of(self.manager.provisioner.pid)
        assert identity is not None
        self.client.stop_channels()
        kill(identity)

    def close(self) -> None:
        self.client.stop_channels()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@pytest.fixture
def kernel(workspace: Workspace, tmp_path: Path) -> Iterator[Kernel]:
    started = Kernel(workspace.home, tmp_path)
    yield started
    started.close()


def steps(workspace: Workspace, job: str) -> int:
    """Steps the job has done so far."""
    return workspace.training.progress(job).read().step


def goes_on(workspace: Workspace, job: str) -> None:
    """Return once the job is seen to make further steps."""
    reached = steps(workspace, job)
    until(lambda: steps(workspace, job) > reached, 30)


def test_training_outlives_the_kernel(
    workspace: Workspace, kernel: Kernel, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Interrupted, restarted and killed, the kernel takes nothing with it; the same cell attaches again meanwhile."""
    gate = tmp_path / "gate"
    cell = CELL.format(gate=gate)
    kernel.run(DEFINITIONS)
    kernel.run(cell)
    (job,) = [record.id for record in workspace.training.jobs("kept")]
    until(lambda: steps(workspace, job) > 0)

    kernel.manager.interrupt_kernel()
    goes_on(workspace, job)
    assert f"attached to running job {job}" in kernel.run(cell)

    kernel.restart()
    goes_on(workspace, job)
    kernel.run(DEFINITIONS)
    assert f"attached to running job {job}" in kernel.run(cell)
    assert job in kernel.run("%train list")
    assert "digits" in kernel.run("%model list")

    kernel.kill()
    reached, began = steps(workspace, job), time.monotonic()
    goes_on(workspace, job)
    gate.touch()
    record = workspace.training.attach(job).wait(120)

    assert (record.phase, record.attempt, record.restarts) == ("finished", 1, ())
    assert record.steps == 800
    assert record.registered is not None, record.registration_error
    version = workspace.development.get_version(record.registered)
    assert (version.name, version.tags["training.job"], version.run_id) == ("kept", job, record.run_id)
    assert len(workspace.training.jobs("kept")) == 1
    seconds = time.monotonic() - began
    report(request, f"kernel killed at step {reached} of 800: finished and registered {seconds:.1f} s later")
