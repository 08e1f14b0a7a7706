"""Drift that is watched: everyday requests, then broken ones; the alert is acknowledged while the kernel is busy."""

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

rows, labels = load_digits(return_X_y=True)
order = np.random.default_rng(3).permutation(len(rows))
rows, labels = (rows / 16).astype("float32")[order], labels[order]
model = LogisticRegression(max_iter=200).fit(rows[:1000], labels[:1000])
workspace.development.register_estimator("digits", model, reference=rows[:1000])
workspace.deployment.deploy_model("digits/1", "dev", strategy="all-at-once").wait(120)
client = workspace.deployment.client("digits", "dev")
print("set up")"""
WATCH = "%monitor digits --env dev --window 200 --into monitor"
EVERYDAY = """for start in range(1000, 1400, 20):
    client.predict(rows[start : start + 20])
monitor.wait_windows(2, timeout=90)
print("everyday requests")"""
BROKEN = """broken = rows.copy()
broken[:, [20, 28, 36]] = 0.0
for start in range(1000, 1600, 20):
    client.predict(broken[start : start + 20])
monitor.wait_for(lambda status: status.alerts, timeout=90)
Path("busy").touch()
while Path("busy").exists():
    time.sleep(0.02)
print("free again")"""
SHOW = "%load_ext mlcycle_nb\n%monitor digits --env dev --show"
STOP = "%monitor digits --env dev --stop"
NAME = "Monitoring of digits in dev"
SHOTS = os.environ.get("MLCYCLE_SCREENSHOTS")


def panel(lab: Lab) -> Any:
    """Return the panel that is shown last."""
    return lab.page.get_by_role("region", name=NAME).last


def look(lab: Lab, name: str) -> None:
    """Check that nothing is blank or broken; keep a picture when somebody wants to see it."""
    shown = panel(lab)
    assert shown.get_by_text("cannot be drawn").count() == 0
    assert shown.locator("figure svg").count() == shown.get_by_role("figure").count() >= 1
    if SHOTS:
        shown.evaluate("panel => panel.scrollIntoView()")
        lab.page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))


@pytest.mark.timeout(600)
def test_drift_is_seen_and_acknowledged(lab: Lab) -> None:
    """None before, the broken columns after; the panel goes on after a reload and in a new kernel."""
    lab.open("drift.ipynb", [SETUP, WATCH, EVERYDAY, BROKEN, SHOW, STOP])
    lab.run(0)
    lab.wait_for_text("set up", timeout=120)
    lab.run(1)
    lab.run(2)
    lab.wait_for_text("everyday requests")
    panel(lab).get_by_text("2 without drift").wait_for(timeout=60_000)
    panel(lab).locator("figure svg").first.wait_for(state="attached", timeout=60_000)
    assert panel(lab).get_by_role("button", name="Acknowledge").count() == 0
    look(lab, "drift-1-everyday")

    lab.run(3, wait=False)
    button = panel(lab).get_by_role("button", name="Acknowledge").first
    button.wait_for(timeout=120_000)
    panel(lab).get_by_text(f"{NAME} ! firing").wait_for(timeout=60_000)  # beside the title
    look(lab, "drift-2-firing")
    button.click()
    panel(lab).get_by_text("acknowledged").first.wait_for(timeout=60_000)
    assert lab.output(3).inner_text() == ""  # the cell still runs
    look(lab, "drift-3-acknowledged")
    (lab.root / "busy").unlink()
    lab.wait_for_text("free again")

    lab.reload("drift.ipynb")
    panel(lab).get_by_text("acknowledged").first.wait_for(timeout=60_000)
    lab.page.evaluate("notebook.sessionContext.session.kernel.restart().then(() => null)")
    lab.page.evaluate("notebook.sessionContext.session.kernel.info.then(() => null)")
    lab.run(4)
    panel(lab).get_by_role("button", name="Stop monitoring").wait_for(timeout=60_000)
    panel(lab).locator("figure svg").first.wait_for(state="attached", timeout=60_000)
    lab.page.evaluate(
        "jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'}).then(() => null)"
    )
    lab.page.wait_for_selector("[data-jp-theme-light='false']", state="attached")
    look(lab, "drift-4-dark")
    lab.page.set_viewport_size({"width": 800, "height": 1400})
    look(lab, "drift-5-narrow")
    panel(lab).get_by_role("button", name="Stop monitoring").click()
    panel(lab).get_by_text("stopped").first.wait_for(timeout=60_000)

    assert lab.outside == []
    with Workspace.open(lab.root / ".mlcycle") as workspace:
        [alert] = [one for one in workspace.monitoring.alerts("digits", environment="dev") if one.kind == "data_drift"]
        assert {"f20", "f28", "f36"} <= set(alert.subjects)
