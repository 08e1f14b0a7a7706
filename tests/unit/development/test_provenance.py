"""Provenance: captured, stored with the run, read back and checked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mlcycle_nb.development.data_digest import data_digest
from mlcycle_nb.development.provenance import ARTIFACT, Provenance, capture, text_digest
from mlcycle_nb.development.service import ModelDevelopmentManager
from mlcycle_nb.errors import IntegrityError, InvalidInput


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, check=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "model.py").write_text("x = 1\n")
    git(folder, "add", "model.py")
    git(folder, "commit", "-q", "-m", "first")
    return folder


class TestRun:
    def test_is_read_back_from_the_run(
        self, development: ModelDevelopmentManager, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(repository)
        rows = np.arange(6).reshape(2, 3)
        with development.start_run(cell="fit(rows)", data={"rows": rows}, seeds={"split": 7}) as run:
            pass
        found = development.provenance(run.id)
        tags = development.run(run.id).tags

        assert found == run.provenance
        assert found.cell == "fit(rows)"
        assert found.cell_digest == text_digest("fit(rows)") == tags["mlcycle.cell_digest"]
        assert found.git_commit == git(repository, "rev-parse", "HEAD") == tags["mlcycle.git_commit"]
        assert not found.dirty
        assert found.data == {"rows": data_digest(rows)}
        assert tags["mlcycle.data.rows"] == data_digest(rows)
        assert found.seeds["split"] == 7
        assert tags["mlcycle.seed.split"] == "7"
        assert any(line.startswith("mlflow==") for line in found.packages)
        assert tags["mlcycle.lock_digest"] == found.lock_digest

    def test_a_changed_artifact_is_found(self, development: ModelDevelopmentManager) -> None:
        with development.start_run(cell="x = 1") as run:
            pass
        file = next(development.context.home.rglob(ARTIFACT))
        file.write_text(file.read_text().replace("x = 1", "x = 2"))
        with pytest.raises(IntegrityError, match="differs from what was recorded"):
            development.provenance(run.id)


class TestGit:
    def test_uncommitted_changes_are_kept(self, repository: Path) -> None:
        (repository / "model.py").write_text("x = 2\n")
        (repository / "new.py").write_text("")
        found = capture(folder=repository)

        assert found.dirty
        assert "+x = 2" in found.git_diff
        assert found.git_diff_digest == text_digest(found.git_diff)
        assert found.git_untracked == ("new.py",)

    def test_outside_a_repository_nothing_is_claimed(self, tmp_path: Path) -> None:
        found = capture(folder=tmp_path)

        assert found.git_commit == ""
        assert not found.dirty
        assert "mlcycle.git_dirty" not in found.tags()

    def test_no_program_of_the_repository_is_run(self, repository: Path, tmp_path: Path) -> None:
        """A repository may name programs for its diffs; capturing runs none of them."""
        witness = tmp_path / "ran"
        for setting in ("diff.external", "core.fsmonitor", "diff.evil.textconv"):
            git(repository, "config", setting, f"touch {witness}; true")
        (repository / ".gitattributes").write_text("*.py diff=evil\n")
        (repository / "model.py").write_text("x = 3\n")
        capture(folder=repository)

        assert not witness.exists()


class TestKernel:
    def test_cells_that_ran_before_are_kept_in_order(self, tmp_path: Path) -> None:
        """In IPython the running cell, and those before it, are taken verbatim."""
        script = tmp_path / "session.py"
        script.write_text(
            "from IPython.core.interactiveshell import InteractiveShell\n"
            "shell = InteractiveShell.instance()\n"
            "shell.run_cell('a = 1  # first', store_history=True)\n"
            "shell.run_cell('b = a + 1', store_history=True)\n"
            "shell.run_cell('from mlcycle_nb.development.provenance import capture\\np = capture()',"
            " store_history=True)\n"
            "p = shell.user_ns['p']\n"
            "assert p.cells_before == ('a = 1  # first', 'b = a + 1'), p.cells_before\n"
            "assert p.cell.endswith('p = capture()'), p.cell\n"
        )
        environment = {"IPYTHONDIR": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr

    def test_json_form_keeps_everything(self) -> None:
        found = capture(cell="x", seeds={"a": 1})

        assert Provenance.from_json(found.to_json()) == found


def loader() -> Any:
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(4)), batch_size=2)


class TestDataDigest:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: np.arange(5),
            lambda: np.array(["a", None, "b"], dtype=object),
            lambda: torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
            lambda: pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
            lambda: pd.Series([1.5, None]),
            lambda: {"train": (np.zeros(2), [1, "x", None])},
            loader,
            lambda: np.float32(2.5),
        ],
    )
    def test_same_values_same_digest(self, make: Any) -> None:
        assert data_digest(make()) == data_digest(make())

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (np.arange(4), np.arange(4).astype(np.int32)),
            (np.arange(4), np.arange(4).reshape(2, 2)),
            (np.array([1.0, 2.0]), np.array([2.0, 1.0])),
            (torch.zeros(3), torch.zeros(3, dtype=torch.int32)),
            (torch.tensor([1.0]), torch.tensor([1.0000001])),
            (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})),
            (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [2, 1]})),
            ([1, 2], [12]),
            (["ab", "c"], ["a", "bc"]),
            ({"a": 1}, {"a": "1"}),
            (True, 1),
        ],
    )
    def test_another_value_another_digest(self, one: Any, other: Any) -> None:
        assert data_digest(one) != data_digest(other)

    def test_non_contiguous_values_count_as_their_values(self) -> None:
        whole = np.arange(12).reshape(3, 4)

        assert data_digest(whole[:, ::2]) == data_digest(whole[:, ::2].copy())
        assert data_digest(torch.arange(6).reshape(2, 3).T) == data_digest(torch.arange(6).reshape(2, 3).T.contiguous())

    def test_files_count_by_their_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("1")
        first = data_digest(tmp_path / "a.csv"), data_digest(tmp_path)
        (tmp_path / "a.csv").write_text("2")

        assert data_digest(tmp_path / "a.csv") != first[0]
        assert data_digest(tmp_path) != first[1]

    @pytest.mark.parametrize("value", [object(), np.array([object()], dtype=object), {"x": {1, 2}}, Path("/absent")])
    def test_what_has_no_bytes_is_refused_by_name(self, value: Any) -> None:
        with pytest.raises(InvalidInput, match="rows"):
            data_digest(value, name="rows")
