"""The quickstart as a person runs it: in JupyterLab, cell by cell, with live panels and no network."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nbformat
import pytest

from tests.browser.conftest import Lab

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "00_quickstart.ipynb"
# Cells whose panel has to be seen moving while the cell still runs, by how their source begins.
MOVING = ("%%train digits", "%deploy {v2}")


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_the_quickstart_runs_with_moving_charts(lab: Lab) -> None:
    """Every cell ends, panels move while their work runs, and nothing asks another host."""
    shots = Path(os.environ.get("MLCYCLE_SCREENSHOTS", lab.root.parent))
    shutil.copy(NOTEBOOK, lab.root / NOTEBOOK.name)
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    lab.open_file(NOTEBOOK.name)
    lab.page.evaluate("jupyterapp.commands.execute('notebook:clear-all-cell-outputs').then(() => null)")
    moved = 0
    for position, cell in enumerate(cells):
        if cell.cell_type != "code":
            continue
        lab.page.evaluate(
            """cell => { notebook.content.activeCellIndex = cell; window.ended = false;
              jupyterapp.commands.execute('notebook:run-cell').then(() => { window.ended = true; }); }""",
            position,
        )
        output = lab.page.locator(".jp-Notebook .jp-Cell").nth(position).locator(".jp-OutputArea")
        if cell.source.startswith(MOVING):
            output.locator("canvas, svg.marks").first.wait_for(state="attached", timeout=180_000)
            before = output.inner_text()
            lab.page.wait_for_function(
                """([position, before]) => window.ended || document.querySelectorAll('.jp-Notebook .jp-Cell')
                    [position].querySelector('.jp-OutputArea').innerText !== before""",
                arg=[position, before],
                timeout=180_000,
            )
            moved += 1
            lab.page.screenshot(path=str(shots / f"moving-{position}.png"))
        lab.page.wait_for_function("() => window.ended", timeout=300_000)
        failed = output.locator("[data-mime-type='application/vnd.jupyter.stderr'] .ansi-red-fg, .jp-RenderedError")
        expected = "raises-exception" in cell.metadata.get("tags", [])
        if not expected:
            assert "Traceback" not in output.inner_text(), output.inner_text()
            assert "MLC-" not in output.inner_text(), output.inner_text()
        else:
            assert "MLC-400" in output.inner_text(), failed.count()
        lab.page.screenshot(path=str(shots / f"cell-{position:02d}.png"))

    assert moved == 4
    assert lab.outside == []
