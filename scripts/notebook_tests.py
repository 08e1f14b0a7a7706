"""Run every notebook under nbval with compared outputs, each in a workspace of its own, and leave nothing running."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from throwaway import throwaway_workspace

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
    with throwaway_workspace("nbval-") as (_, environment):
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"),
            *("--nbval-cell-timeout", "300", "--nbval-sanitize-with", str(SANITIZE), str(notebook)),
            *("-o", "timeout=900", "-o", "testpaths="),
        ]
        return subprocess.run(command, env=environment, cwd=ROOT).returncode


if __name__ == "__main__":
    raise SystemExit(main())
