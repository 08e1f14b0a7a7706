"""A run that is watched: a worker is killed, the page is reloaded, the kernel is restarted, and the curves go on."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.workspace import Workspace
from tests.browser.conftest import Lab

SETUP = """%load_ext mlcycle_nb
import time, torch
generator = torch.Generator().manual_seed(5)
rows = torch.randn(640, 20, generator=generator)
labels = (rows[:, 0] > 0).long() + (rows[:, 1] > 0).long()"""
TRAIN = """%%train watched --processes 2 --epochs 8 --checkpoint-every 10
import os

read = 0

class Held(torch.utils.data.Dataset):
    def __len__(self):
        return len(rows)
    def __getitem__(self, row):
        global read
        read += 1
        for step, gate in ((34, "gate-34"), (60, "gate-60")):
            while read > 16 * step and os.path.exists(gate):
                time.sleep(0.02)
        if row % 40 == 0:
            print(f"\\x1b[32mread\\x1b[0m row {row}")
        return rows[row], labels[row]

model = torch.nn.Sequential(torch.nn.Linear(20, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))
fit(model, torch.optim.Adam(model.parameters(), lr=0.003),
    torch.utils.data.DataLoader(Held(), batch_size=16, shuffle=True),
    torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows, labels), batch_size=64),
    loss=torch.nn.CrossEntropyLoss())"""
ATTACH = "%load_ext mlcycle_nb\n%train attach watched"
STEPS = 160  # 640 rows, 2 processes of 16 rows a batch, 8 epochs
SHOTS = os.environ.get("MLCYCLE_SCREENSHOTS")


def panel(lab: Lab) -> Any:
    """Return the panel's region, by its name."""
    return lab.page.get_by_role("region", name="training watched-1").last


def look(lab: Lab, name: str) -> None:
    """Check that nothing is blank or broken; keep a picture when somebody wants to see it."""
    assert panel(lab).get_by_text("cannot be drawn").count() == 0
    assert panel(lab).locator("figure svg").count() == panel(lab).get_by_role("figure").count() == 2
    assert panel(lab).get_by_role("table").count() >= 3
    if SHOTS:
        panel(lab).scroll_into_view_if_needed()
        lab.page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))


def wait_for_step(lab: Lab, step: int) -> None:
    """Wait until the panel that is shown last says that at least `step` is done."""
    lab.page.wait_for_function(
        """step => { const shown = [...document.querySelectorAll('.mlcycle-panel')].at(-1);
             const found = shown?.textContent.match(/step (\\d+) of/); return found && +found[1] >= step; }""",
        arg=step,
        timeout=180_000,
    )


def wait_for_curves(lab: Lab, points: int) -> None:
    """Wait until the first chart's longest line goes through at least `points` points."""
    lab.page.wait_for_function(
        """points => { const figure = [...document.querySelectorAll('.mlcycle-panel')].at(-1)?.querySelector('figure');
             const lines = [...(figure?.querySelectorAll('.mark-line path') ?? [])];
             return Math.max(0, ...lines.map(line => (line.getAttribute('d').match(/[ML]/g) ?? []).length)) >= points; }
        """,
        arg=points,
        timeout=180_000,
    )


def drawn_steps(lab: Lab) -> int:
    """Return how many points the loss line has."""
    return int(
        lab.page.evaluate(
            """() => Math.max(...[...[...document.querySelectorAll('.mlcycle-panel')].at(-1).querySelector('figure')
                 .querySelectorAll('.mark-line path')].map(line => line.getAttribute('d').match(/[ML]/g).length))"""
        )
    )


@pytest.mark.timeout(600)
def test_a_watched_run_survives_a_kill_a_reload_and_a_restart(lab: Lab) -> None:
    """Nothing is blank at any time, and in the end every step is in the curve once."""
    gates = [lab.root / name for name in ("gate-34", "gate-60")]  # steps of an attempt at which it waits for us
    for gate in gates:
        gate.touch()
    lab.open("watched.ipynb", [SETUP, TRAIN, ATTACH])
    lab.run(0)
    lab.run(1)
    wait_for_step(lab, 34)
    wait_for_curves(lab, 34)
    assert panel(lab).get_by_role("progressbar", name="progress").get_attribute("aria-valuenow") == "21"
    assert panel(lab).get_by_role("button", name="Stop").is_visible()
    assert "\x1b" not in panel(lab).inner_text()
    look(lab, "1-running")

    (alive,) = lab.root.glob(".mlcycle/training/jobs/watched-1/alive/rank-1.json")
    os.kill(int(json.loads(alive.read_text())["pid"]), signal.SIGKILL)
    panel(lab).get_by_text("recovering: ").wait_for(timeout=180_000)
    look(lab, "2-killed")
    gates[0].unlink()
    panel(lab).get_by_text("1 (from step 30)").wait_for(timeout=180_000)
    wait_for_step(lab, 90)
    wait_for_curves(lab, 90)
    look(lab, "3-recovered")

    lab.reload("watched.ipynb")
    wait_for_step(lab, 90)
    wait_for_curves(lab, 90)
    look(lab, "4-reloaded")

    lab.page.evaluate("notebook.sessionContext.session.kernel.restart().then(() => null)")
    lab.page.evaluate("notebook.sessionContext.session.kernel.info.then(() => null)")
    shown = lab.page.locator(".mlcycle-panel").count()
    lab.run(2)
    lab.page.wait_for_function(
        "shown => document.querySelectorAll('.mlcycle-panel').length > shown", arg=shown, timeout=180_000
    )
    wait_for_curves(lab, 90)
    look(lab, "5-restarted")
    gates[1].unlink()
    panel(lab).get_by_text("completed").wait_for(timeout=180_000)
    lab.page.wait_for_function(  # what is saved is renewed as well, which draws the panel anew
        "() => JSON.stringify(notebook.content.widgets[2].model.outputs.toJSON()).includes('completed')",
        timeout=180_000,
    )
    wait_for_curves(lab, STEPS)
    lab.page.get_by_role("region", name="training watched-1").first.get_by_text("No news from the kernel").wait_for(
        timeout=180_000
    )
    look(lab, "6-completed")

    lab.page.evaluate(
        "jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'}).then(() => null)"
    )
    lab.page.wait_for_selector("[data-jp-theme-light='false']", state="attached")
    look(lab, "7-dark")
    lab.page.set_viewport_size({"width": 800, "height": 1400})
    look(lab, "8-narrow")

    assert drawn_steps(lab) == STEPS
    assert panel(lab).get_by_role("button").count() == 0
    assert lab.outside == []
    with Workspace.open(lab.root / ".mlcycle") as workspace:
        curve = workspace.training.progress("watched-1").read().loss_curve()
        assert [step for step, _ in curve] == list(range(1, STEPS + 1))
        assert len(workspace.training.job("watched-1").restarts) == 1
