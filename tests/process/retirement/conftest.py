"""Two versions of a digits model, served by real replicas behind a real gateway, in a workspace whose time can pass."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from mlcycle_nb.retirement.records import Retirement
from mlcycle_nb.supervisor.start import find_supervisor
from mlcycle_nb.workspace import Workspace
from tests.conftest import living

ENVIRONMENT = "dev"


class Served:
    """One workspace with ``digits/1`` replaced by ``digits/2``, and a consumer who names version 1."""

    def __init__(self, workspace: Workspace) -> None:
        import numpy as np
        from sklearn.datasets import load_digits
        from sklearn.linear_model import LogisticRegression

        from mlcycle_nb.packages import PackageStore, build_package

        self.workspace = workspace
        digits = load_digits()
        x, y = (digits.data / 16).astype(np.float32), digits.target
        store = PackageStore(workspace.context.folder("packages"))
        for strength, count in ((0.5, 1200), (1.0, 1400)):
            model = LogisticRegression(max_iter=400, C=strength).fit(x[:count], y[:count])
            package = build_package(model, example=x[:64], reference=x[:500], out=store)
            workspace.development.register_model("digits", package)
        for version in (1, 2):
            handle = workspace.deployment.deploy_model(f"digits/{version}", ENVIRONMENT, replicas=1)
            assert handle.wait(60).phase == "completed"
        self.key = workspace.deployment.add_consumer("billing", ENVIRONMENT).key
        workspace.deployment.client("digits", ENVIRONMENT, consumer="billing").close()  # once the key is in force
        self.url = workspace.deployment.status("digits", ENVIRONMENT).url
        inputs = [{"name": "input", "shape": [1, 64], "datatype": "FP32", "data": x[1500].tolist()}]
        self.body = {"inputs": inputs}

    def ask(self, count: int = 1) -> list[httpx.Response]:
        """Ask version 1's own address."""
        headers = {"authorization": f"Bearer {self.key}"}
        with httpx.Client(base_url=self.url, headers=headers, timeout=20) as client:
            return [client.post("/v2/models/digits/versions/1/infer", json=self.body) for _ in range(count)]

    def answers(self, count: int) -> Counter[str]:
        """Return who answered version 1's own address."""
        found = self.ask(count)
        assert {answer.status_code for answer in found} == {200}, {a.status_code: a.text[:200] for a in found}
        return Counter(answer.headers["x-model-version"] for answer in found)

    def record(self, id: str) -> Retirement:
        return self.workspace.store.get(Retirement, id)

    def pass_time(self, **length: float) -> None:
        from datetime import timedelta

        self.workspace.clock.advance(timedelta(**length))  # type: ignore[attr-defined]  # the offset clock

    def until_in_force(self, id: str, share: int) -> None:
        """Wait until the step with this share was seen in force."""
        until(lambda: any(s.share == share and s.confirmed_at for s in self.record(id).steps if s.kind != "gone"))

    def kill_supervisor(self) -> None:
        identity = find_supervisor(self.workspace.home)
        assert identity is not None
        os.kill(identity.pid, signal.SIGKILL)
        until(lambda: not identity.alive())
        self.workspace.context.ensure_supervisor()


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Return once the condition holds; fail when it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.02)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """The world above, brought down afterwards and checked for leftovers."""
    workspace = Workspace.open(tmp_path / ".mlcycle", settings={"workspace": {"clock": "offset"}})
    try:
        yield Served(workspace)
    finally:
        log = workspace.home / "logs" / "supervisor.log"
        if log.exists():
            print("supervisor log:", log.read_text()[-8000:])
        for record in workspace.store.find(Retirement):
            print(workspace.retirement.status(record.id), workspace.store.observed(Retirement, record.id))
        workspace.down()
        workspace.close()
    left = living(workspace)
    assert not left, f"processes left behind: {left}"
    shutil.rmtree(workspace.home)
