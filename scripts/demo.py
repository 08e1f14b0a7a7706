"""Execute the quickstart headless into build/ and say what happened in each stage."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
NOTEBOOK = "00_quickstart"


def main() -> int:
    """Run the notebook, keep its outputs, stop what it started; the exit code says whether it passed."""
    BUILD.mkdir(exist_ok=True)
    home = BUILD / "quickstart" / ".mlcycle"
    os.environ |= {"MLCYCLE_HOME": str(home), "MLCYCLE_CLOCK": "offset"}
    notebook = nbformat.read(ROOT / "notebooks" / f"{NOTEBOOK}.ipynb", as_version=4)
    began = time.monotonic()
    print(f"Running notebooks/{NOTEBOOK}.ipynb ...", flush=True)
    failure: CellExecutionError | None = None
    try:
        NotebookClient(
            notebook, timeout=600, extra_arguments=["--log-level=40"], resources={"metadata": {"path": str(BUILD)}}
        ).execute()
    except CellExecutionError as error:
        failure = error
    finally:
        _down(home)
    nbformat.write(notebook, BUILD / f"{NOTEBOOK}.ipynb")
    page, _ = HTMLExporter(template_name="lab").from_notebook_node(notebook)
    (BUILD / f"{NOTEBOOK}.html").write_text(page)
    if failure is not None:
        print(f"The notebook stopped: {failure.ename}: {failure.evalue}", file=sys.stderr)
        print(f"Look at build/{NOTEBOOK}.html", file=sys.stderr)
        return 1
    print(_summary(notebook))
    print(f"\nDone in {time.monotonic() - began:.0f} s; nothing is left running.")
    print(f"The notebook with all its charts: build/{NOTEBOOK}.html")
    return 0


def _summary(notebook: nbformat.NotebookNode) -> str:
    """Return the text of the cell that is tagged as the summary."""
    for cell in notebook.cells:
        if "summary" in cell.metadata.get("tags", []):
            return "".join(output.get("text", "") for output in cell.outputs).rstrip()
    return "the notebook has no summary cell"


def _down(home: Path) -> None:
    from mlcycle_nb.workspace import Workspace

    if home.is_dir():
        with Workspace.open(home) as workspace:
            workspace.down()


if __name__ == "__main__":
    raise SystemExit(main())
