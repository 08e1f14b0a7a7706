"""Rollouts that are watched: a wrong version goes back, and buttons work while the kernel is busy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.workspace import Workspace
from tests.browser.conftest import Lab

SETUP = """%load_ext mlcycle_nb
import time
import numpy as np
from pathlib import Path
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from mlcycle_nb.testing import Traffic

rows, labels = load_digits(return_X_y=True)
rows = (rows / 16).astype("float32")
for strength, truth in ((0.5, labels), (1.0, labels), (1.0, np.roll(np.arange(10), 1)[labels])):
    model = LogisticRegression(C=strength, max_iter=200).fit(rows[:1200], truth[:1200])
    workspace.development.register_estimator("digits", model, reference=rows[:400])
workspace.deployment.deploy_model("digits/1", "dev", strategy="all-at-once").wait(120)
client = workspace.deployment.client("digits", "dev")
everyday = Traffic.through(client, rows[1200:], per_second=100, concurrency=2)
settings = "--mirror 50 --max-disagreement 0.2 --max-slowdown 0.9 --min-requests 60 --no-wait"
print("set up")"""
GOOD = "%deploy digits/2 --env dev --canary --steps 20,100 --interval 10m {settings}"
WRONG = "%deploy digits/3 --env dev --canary --steps 10,50,100 --interval 2s {settings}"
BUSY = """Path("busy").touch()
while Path("busy").exists():
    time.sleep(0.02)
print("free again")"""
START = "everyday.start(); print('requests')"
COUNT = 'everyday.stop(); print(f"{len(everyday.failed)} of {len(everyday.answers)} failed")'
SHOTS = os.environ.get("MLCYCLE_SCREENSHOTS")


def panel(lab: Lab, rollout: str) -> Any:
    """Return the panel's region, by its name."""
    return lab.page.get_by_role("region", name=f"rollout dev/digits/{rollout}").last


def look(lab: Lab, rollout: str, name: str) -> None:
    """Check that nothing is blank or broken; keep a picture when somebody wants to see it."""
    shown = panel(lab, rollout)
    assert shown.get_by_text("cannot be drawn").count() == 0
    assert shown.locator("figure svg").count() == shown.get_by_role("figure").count() >= 3
    assert shown.get_by_role("table").count() >= 2
    if SHOTS:
        shown.evaluate("panel => panel.scrollIntoView()")
        lab.page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))


def busy(lab: Lab, cell: int) -> None:
    """Run the cell that holds the kernel, and wait until it does."""
    lab.run(cell, wait=False)
    lab.page.wait_for_function("notebook.sessionContext.session.kernel.status === 'busy'", timeout=60_000)
    for _ in range(600):
        if (lab.root / "busy").exists():
            return
        lab.page.wait_for_timeout(100)
    raise AssertionError("the cell did not begin")


@pytest.mark.timeout(600)
def test_a_wrong_version_is_seen_going_back(lab: Lab) -> None:
    """Weights, charts and the reason, live; light, dark and narrow; no request failed or went to another host."""
    lab.open("canary.ipynb", [SETUP, WRONG, START, COUNT])
    lab.run(0)
    lab.wait_for_text("set up", timeout=120)
    lab.run(1)
    shown = panel(lab, "r2")
    shown.get_by_text("progressing, step 1/3").wait_for(timeout=60_000)
    assert shown.get_by_role("button", name="Abort").is_visible()
    if SHOTS:
        lab.page.screenshot(path=str(Path(SHOTS) / "canary-1-waiting.png"))
    lab.run(2)  # without a request there is no verdict, however long it takes
    shown.get_by_text("rolled_back").first.wait_for(timeout=120_000)
    shown.get_by_text("disagreement").first.wait_for(timeout=60_000)
    look(lab, "r2", "canary-2-rolled-back")
    lab.page.evaluate(
        "jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'}).then(() => null)"
    )
    lab.page.wait_for_selector("[data-jp-theme-light='false']", state="attached")
    look(lab, "r2", "canary-3-dark")
    lab.page.set_viewport_size({"width": 800, "height": 1400})
    look(lab, "r2", "canary-4-narrow")
    lab.run(3)
    lab.wait_for_text("0 of ")

    assert shown.get_by_role("button").count() == 0
    assert lab.outside == []
    with Workspace.open(lab.root / ".mlcycle") as workspace:
        assert workspace.deployment.status("digits", "dev").stable == 1


@pytest.mark.timeout(600)
def test_a_button_works_while_the_kernel_is_busy(lab: Lab) -> None:
    """Abort in the middle of a canary, while a cell runs that does not end."""
    cells = [f"{SETUP}\n{START}", GOOD, BUSY, COUNT]
    lab.open("buttons.ipynb", cells)
    lab.run(0)
    lab.wait_for_text("set up", timeout=120)
    lab.run(1)
    shown = panel(lab, "r2")
    shown.get_by_text("progressing, step 1/2").wait_for(timeout=60_000)
    busy(lab, 2)
    shown.get_by_role("button", name="Abort").click()
    shown.get_by_text("Abort: asked for").wait_for(timeout=60_000)
    shown.get_by_text("aborted").first.wait_for(timeout=60_000)
    look(lab, "r2", "buttons-1-aborted")
    assert lab.output(2).inner_text() == ""  # the cell still runs
    (lab.root / "busy").unlink()
    lab.wait_for_text("free again")

    lab.run(3)
    lab.wait_for_text("0 of ")

    assert lab.outside == []
    with Workspace.open(lab.root / ".mlcycle") as workspace:
        assert workspace.deployment.status("digits", "dev").stable == 1
