"""Execute notebooks and commit what they show: each in a workspace of its own, with names of this machine taken out."""

from __future__ import annotations

import argparse
import getpass
import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
from throwaway import throwaway_workspace

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
    with throwaway_workspace("outputs-") as (folder, environment):
        out = folder / notebook.name
        arguments = [f"--output={out}", "--timeout=600", str(notebook.resolve())]
        command = [sys.executable, "-m", "jupyter", "execute", *arguments]
        code = subprocess.run(command, env=environment, cwd=folder).returncode
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
