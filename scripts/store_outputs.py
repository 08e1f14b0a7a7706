"""Execute notebooks and commit what they show: each in a workspace of its own, with names of this machine taken out."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parent.parent
SOMEBODY = "you@laptop"
# What a viewer cannot draw without this package: the HTML beside it says the same.
PRIVATE_TYPES = re.compile(r"application/vnd\.mlcycle\.|application/vnd\.jupyter\.widget-view")


def main(arguments: list[str] | None = None) -> int:
    """Return 0 when every notebook could be executed to its end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted((ROOT / "notebooks").glob("*.ipynb")))
    for notebook in parser.parse_args(arguments).notebooks:
        executed = _execute(notebook)
        if executed is None:
            return 1
        nbformat.write(executed, notebook)
        print(f"{notebook.name}: {notebook.stat().st_size:,} bytes")
    return 0


def _execute(notebook: Path) -> Any:
    from mlcycle_nb.workspace import Workspace

    with tempfile.TemporaryDirectory(prefix="outputs-") as name:
        folder = Path(name)
        home, out = folder / ".mlcycle", folder / notebook.name
        environment = dict(
            os.environ,
            MLCYCLE_HOME=str(home),
            MLCYCLE_KEYS=f"{folder}/keys",
            MLCYCLE_CLOCK="offset",
            MLCYCLE_LIVE="0",
            JUPYTER_DATA_DIR=f"{folder}/jupyter",  # kernels of environments are put there
        )
        command = [
            sys.executable,
            "-m",
            "jupyter",
            "execute",
            f"--output={out}",
            "--timeout=600",
            str(notebook.resolve()),
        ]
        code = subprocess.run(command, env=environment, cwd=folder).returncode
        os.environ["MLCYCLE_KEYS"] = f"{folder}/keys"
        if home.is_dir():
            with Workspace.open(home) as workspace:
                workspace.down()
        return _cleaned(nbformat.read(out, as_version=4), folder) if code == 0 else None


def _cleaned(notebook: Any, folder: Path) -> Any:
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            for kind in [kind for kind in output.get("data", {}) if PRIVATE_TYPES.match(kind)]:
                del output.data[kind]
    text = json.dumps(notebook)
    text = text.replace(f"{getpass.getuser()}@{socket.gethostname()}", SOMEBODY).replace(f"{folder}/", "")
    text = text.replace(f"{sys.prefix}/", ".venv/").replace(f"{ROOT}/", "")
    left = set(re.findall(r"/(?:tmp|home|root|work)/[\w./-]+", text))
    if left:
        print(f"places of this machine that stay: {', '.join(sorted(left))}")
    return nbformat.from_dict(json.loads(text))


if __name__ == "__main__":
    raise SystemExit(main())
