"""The Jupyter kernel of an environment: a kernel spec that front ends list by its name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from mlcycle_nb.files import private_folder, write_atomically

SPEC_NAME = "kernel.json"


def kernels_folder() -> Path:
    """Return where this user's kernel specs are looked for."""
    from jupyter_core.paths import jupyter_data_dir

    return Path(jupyter_data_dir()) / "kernels"


def kernel_name(workspace_id: str, environment: str) -> str:
    """Return the name of an environment's kernel; two workspaces may have environments of one name."""
    return f"mlcycle-{environment}-{workspace_id[:8]}"


def install_kernel(folder: Path, name: str, *, environment: str, python: Path, home: Path, workspace_id: str) -> None:
    """Write a kernel spec; the same one again changes nothing."""
    spec = {
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": f"{environment} (mlcycle)",
        "language": "python",
        "env": {"MLCYCLE_HOME": str(home)},
        "metadata": {"debugger": True, "mlcycle": {"workspace": workspace_id, "environment": environment}},
    }
    folder.mkdir(parents=True, exist_ok=True)
    remove_orphans(folder)
    write_atomically(private_folder(folder / name) / SPEC_NAME, json.dumps(spec, indent=1))


def remove_kernel(folder: Path, name: str, *, workspace_id: str) -> None:
    """Remove a kernel spec of this workspace; one that somebody else has put there stays."""
    try:
        spec = json.loads((folder / name / SPEC_NAME).read_text())
        ours = spec["metadata"]["mlcycle"]["workspace"] == workspace_id
    except (OSError, ValueError, KeyError, TypeError):
        return
    if ours:
        shutil.rmtree(folder / name)


def remove_orphans(folder: Path) -> None:
    """Remove kernel specs of workspaces that were deleted with their environments: front ends would still list them.

    One whose parent folder is absent too stays: its drive may not be mounted now.
    """
    for file in folder.glob(f"mlcycle-*/{SPEC_NAME}"):
        try:
            spec = json.loads(file.read_text())
            home, python = Path(spec["env"]["MLCYCLE_HOME"]), Path(spec["argv"][0])
            ours = bool(spec["metadata"]["mlcycle"]["workspace"])
        except (OSError, ValueError, LookupError, TypeError):
            continue
        if ours and python.is_relative_to(home) and home.parent.is_dir() and not home.exists():
            shutil.rmtree(file.parent)
