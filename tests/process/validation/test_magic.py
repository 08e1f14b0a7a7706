"""``%validate`` in a real IPython shell, with the real registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from sklearn.linear_model import LogisticRegression

from mlcycle_nb.errors import InvalidInput, NotFound
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.packages import PackageStore, build_package
from mlcycle_nb.validation.data import ValidationData
from mlcycle_nb.validation.magic import ValidationMagics
from mlcycle_nb.workspace import Workspace

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def shell(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    rows = (rng.normal(size=(500, 3)) * 0.4 + labels[:, None]).astype(np.float32)
    frame = pd.DataFrame(rows, columns=["x", "y", "z"])
    store = PackageStore(workspace.context.folder("packages"))
    package = build_package(LogisticRegression().fit(frame, labels), example=frame, out=store)
    workspace.development.register_model("toy", package)
    Path("gates.yaml").write_text("gates:\n  - {check: accuracy, min: 0.8}\n  - {check: package_integrity}\n")
    frame.assign(label=labels).to_csv("rows.csv", index=False)
    running = InteractiveShell()
    running.user_ns["data"] = ValidationData(frame, labels)
    running.user_ns["pair"] = (rows, labels)
    running.user_ns["frame"] = frame.assign(label=labels)
    running.register_magics(ValidationMagics(running, lambda: workspace))
    yield running
    running.history_manager.end_session()


def validate(shell: Any, line: str) -> Any:
    return shell.find_line_magic("validate")(line)


class TestValidateMagic:
    def test_one_verdict_and_its_report(self, shell: Any, tmp_path: Path) -> None:
        report = validate(shell, "toy/1 --gates gates.yaml --data data --wait --report-html report.html --into seen")

        assert report.outcome is Outcome.PASSED
        assert shell.user_ns["seen"] is report
        assert "Validation of toy/1" in (tmp_path / "report.html").read_text()
        assert validate(shell, "toy/1").id == report.id

    @pytest.mark.parametrize("data", ["frame", "pair", "rows.csv"])
    def test_data_comes_in_several_forms(self, shell: Any, data: str) -> None:
        assert validate(shell, f"toy/1 --gates gates.yaml --data {data} --wait").passed

    def test_not_waiting_returns_a_handle(self, shell: Any) -> None:
        handle = validate(shell, "toy/1 --gates gates.yaml --data data --no-wait")

        assert handle.wait(60).passed

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("", "required"),
            ("toy/1 --gates gates.yaml", "needs --data"),
            ("toy/1 --data data", "needs --gates"),
            ("toy/1 --gates gates.yaml --data dta", "did you mean 'data'"),
            ("toy/1 --gates gates.yaml --data shell", "neither a name"),
            ("toy/1 --gates absent.yaml --data data", "no such file"),
            ("toy/1 --gate gates.yaml --data data", "unknown option --gate"),
            ("toy/1 --gates gates.yaml --data frame --label y_true", "label column is missing"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, shell: Any, line: str, words: str) -> None:
        with pytest.raises(InvalidInput, match=words):
            validate(shell, line)

    def test_unknown_versions_and_missing_verdicts_are_named(self, shell: Any) -> None:
        with pytest.raises(NotFound):
            validate(shell, "toy/9 --gates gates.yaml --data data")
        with pytest.raises(NotFound, match="no verdict yet"):
            validate(shell, "toy/1")
