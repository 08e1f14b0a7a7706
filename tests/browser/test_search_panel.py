"""A search that is watched: trials come in, a browser reload in between, and Stop pressed while trials run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.workspace import Workspace
from tests.browser.conftest import Lab

SETUP = """%load_ext mlcycle_nb
import os, time, torch
generator = torch.Generator().manual_seed(5)
rows = torch.randn(320, 20, generator=generator)
labels = (rows[:, 0] > 0).long() + (rows[:, 1] > 0).long()"""
SEARCH = """%%train found --epochs 3 --trials 9 --concurrent 2 --metric val_accuracy --search lr=.001,.01,.1 width=8,16
def collate(batch):
    while os.path.exists("gate") and params.lr > float(open("gate").read()):
        time.sleep(0.02)
    return torch.utils.data.default_collate(batch)

model = torch.nn.Sequential(torch.nn.Linear(20, params.width), torch.nn.ReLU(), torch.nn.Linear(params.width, 3))
data = torch.utils.data.TensorDataset(rows, labels)
fit(model, torch.optim.Adam(model.parameters(), lr=params.lr),
    torch.utils.data.DataLoader(data, batch_size=32, shuffle=True, collate_fn=collate),
    torch.utils.data.DataLoader(data, batch_size=64), loss=torch.nn.CrossEntropyLoss())"""
SHOTS = os.environ.get("MLCYCLE_SCREENSHOTS")


def panel(lab: Lab) -> Any:
    """Return the panel's region, by its name."""
    return lab.page.get_by_role("region", name="search found-search-1").last


def look(lab: Lab, name: str) -> None:
    """Check that nothing is blank or broken; keep a picture when somebody wants to see it."""
    assert panel(lab).get_by_text("cannot be drawn").count() == 0
    assert panel(lab).locator("figure svg").count() == panel(lab).get_by_role("figure").count() >= 2
    if SHOTS:
        panel(lab).scroll_into_view_if_needed()
        lab.page.screenshot(path=str(Path(SHOTS) / f"search-{name}.png"))


def wait_for_trials(lab: Lab, count: int) -> None:
    """Wait until the panel says that at least `count` trials have ended."""
    lab.page.wait_for_function(
        """count => { const shown = [...document.querySelectorAll('.mlcycle-panel')].at(-1);
             const found = shown?.textContent.match(/(\\d+) of 9 trials/); return found && +found[1] >= count; }""",
        arg=count,
        timeout=240_000,
    )


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_watched_search_is_stopped_by_its_button(lab: Lab) -> None:
    """What came in stays on the page, in the workspace and in the study; nothing is left running."""
    lab.open("found.ipynb", [SETUP, SEARCH])
    lab.run(0)
    lab.run(1)
    wait_for_trials(lab, 3)
    look(lab, "1-running")
    (lab.root / "gate").write_text("0")  # from now on every trial waits at its next batch

    lab.reload("found.ipynb")
    wait_for_trials(lab, 3)
    look(lab, "2-reloaded")

    panel(lab).get_by_role("button", name="Stop").click()
    panel(lab).get_by_text("stopping").first.wait_for(timeout=120_000)
    (lab.root / "gate").unlink()
    panel(lab).get_by_text("stopped").first.wait_for(timeout=180_000)
    look(lab, "3-stopped")

    assert panel(lab).get_by_role("button", name="Resume").is_visible()
    assert panel(lab).get_by_role("button").count() == 1
    assert lab.outside == []
    with Workspace.open(lab.root / ".mlcycle") as workspace:
        search = workspace.training.searches.get("found-search-1")
        assert search.phase == "stopped"
        assert 3 <= search.ended < 9
        assert all(not job.active for job in workspace.training.jobs("found"))
