"""Kernel specs of environments: ours are removed with their workspace, others stay."""

from __future__ import annotations

import json
from pathlib import Path

from mlcycle_nb.development.environments.kernels import install_kernel, remove_orphans


def install(folder: Path, home: Path, name: str) -> Path:
    python = home / "environments" / name / "bin" / "python"
    install_kernel(folder, f"mlcycle-{name}-w", environment=name, python=python, home=home, workspace_id="w")
    return folder / f"mlcycle-{name}-w"


def test_specs_of_deleted_workspaces_go_when_the_next_one_comes(tmp_path: Path) -> None:
    """Front ends would list kernels that cannot start."""
    gone, here = tmp_path / "gone", tmp_path / "here"
    here.mkdir()
    orphan = install(tmp_path / "kernels", gone, "old")
    kept = install(tmp_path / "kernels", here, "new")

    assert not orphan.exists()
    assert json.loads((kept / "kernel.json").read_text())["env"] == {"MLCYCLE_HOME": str(here)}


def test_a_workspace_on_a_drive_that_is_not_mounted_keeps_its_kernels(tmp_path: Path) -> None:
    drive, here = tmp_path / "drive", tmp_path / "here"
    here.mkdir()
    far = install(tmp_path / "kernels", drive / "work", "old")
    install(tmp_path / "kernels", here, "new")
    assert far.exists()

    drive.mkdir()  # mounted now, and without the workspace
    remove_orphans(tmp_path / "kernels")
    assert not far.exists()


def test_what_others_have_put_there_stays(tmp_path: Path) -> None:
    """Also where it has a name like ours."""
    for name, spec in {"mlcycle-a": "{", "mlcycle-b": '{"argv": ["python"]}', "python3": "{}"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "kernel.json").write_text(spec)

    remove_orphans(tmp_path)

    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mlcycle-a", "mlcycle-b", "python3"]
