"""Run every notebook under nbval with compared outputs, each in a workspace of its own, and leave nothing running."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SANITIZE = ROOT / "tests" / "notebooks" / "sanitize.cfg"


def main() -> int:
    """Return 0 when all notebooks give the outputs that are committed."""
    failed = []
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if _run(notebook) != 0:
            failed.append(notebook.name)
    if failed:
        print(f"notebooks that differ: {', '.join(failed)}")
    return 1 if failed else 0


def _run(notebook: Path) -> int:
    from mlcycle_nb.workspace import Workspace

    with tempfile.TemporaryDirectory(prefix="nbval-") as folder:
        home = Path(folder) / ".mlcycle"
        environment = dict(
            os.environ,
            MLCYCLE_HOME=str(home),
            MLCYCLE_KEYS=f"{folder}/keys",
            MLCYCLE_CLOCK="offset",
            MLCYCLE_LIVE="0",
            JUPYTER_DATA_DIR=f"{folder}/jupyter",  # kernels of environments are put there
        )
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"),
            *("--nbval-cell-timeout", "300", "--nbval-sanitize-with", str(SANITIZE), str(notebook)),
            *("-o", "timeout=900", "-o", "testpaths="),
        ]
        code = subprocess.run(command, env=environment, cwd=ROOT).returncode
        os.environ["MLCYCLE_KEYS"] = f"{folder}/keys"
        if home.is_dir():
            with Workspace.open(home) as workspace:
                workspace.down()
        return code


if __name__ == "__main__":
    raise SystemExit(main())
