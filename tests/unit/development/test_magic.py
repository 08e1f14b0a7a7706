"""The magics of development, through a real IPython shell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.development.service import ModelDevelopmentManager
from mlcycle_nb.errors import InvalidInput, NotFound


class OneWorkspace:
    """What the magics need of a workspace."""

    def __init__(self, development: ModelDevelopmentManager) -> None:
        self.development = development
        self.context: Context = development.context


@pytest.fixture
def shell(development: ModelDevelopmentManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    from IPython.core.interactiveshell import InteractiveShell

    from mlcycle_nb.development.magic import DevelopmentMagics
    from mlcycle_nb.notebook.magics import register

    InteractiveShell.clear_instance()
    running = InteractiveShell.instance()
    register(running, [DevelopmentMagics(running, lambda: OneWorkspace(development))])
    yield running
    running.history_manager.end_session()
    InteractiveShell.clear_instance()


def test_experiment_is_selected(shell: Any, development: ModelDevelopmentManager) -> None:
    assert shell.run_line_magic("experiment", "digits").name == "digits"
    assert development.start_run().record.experiment == "digits"
    assert "digits" in {e.name for e in shell.run_line_magic("experiment", "")}


def test_runs_and_compare_show_numbers(shell: Any, development: ModelDevelopmentManager) -> None:
    for rate in (0.1, 0.2):
        with development.start_run(run_name=f"r{rate}") as run:
            run.log_hyperparameters({"lr": rate})
            run.log_metrics({"loss": rate})

    assert "loss=0.2" in repr(shell.run_line_magic("runs", "--last 5"))
    shown = shell.run_line_magic("compare", "r0.1 r0.2 --into both")
    assert "lr" in repr(shown)
    assert shell.user_ns["both"] is shown


def test_the_running_cell_is_recorded(shell: Any, development: ModelDevelopmentManager) -> None:
    shell.user_ns["development"] = development
    shell.run_cell("%experiment digits", store_history=True)
    shell.run_cell("with development.start_run() as run: pass", store_history=True)
    found = development.provenance(shell.user_ns["run"].id)

    assert found.cell == "with development.start_run() as run: pass"
    assert found.cells_before == ("%experiment digits",)


def test_model_verbs(shell: Any, development: ModelDevelopmentManager, package: Any) -> None:
    for _ in range(2):
        development.register_model("digits", package)

    assert "digits/2" in repr(shell.run_line_magic("model", "list"))
    assert shell.run_line_magic("model", "alias digits/2 champion --reason better").aliases == ("champion",)
    assert shell.run_line_magic("model", "show digits@champion").version == 2
    assert shell.run_line_magic("model", "history digits").aliases == {"champion": 2}
    assert shell.run_line_magic("model", "history digits --at 2020-01-01").versions == ()
    shell.run_line_magic("model", "unalias digits champion")
    assert development.aliases("digits") == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("model lst", "did you mean 'list'"),
        ("model show", "a model is missing"),
        ("model alias digits/1", "an alias is missing"),
        ("model history digits --at yesterday", "--at is not a time"),
        ("model --resaon x", "did you mean '--reason'"),
        ("runs --last 0", "--last must be at least 1"),
        ("runs --last many", "invalid int value"),
        ("compare one", "two different runs"),
        ("experiment Ünïcode", "U\\+00DC"),
        ('experiment "open', "unclosed quote at column 1"),
        ("experiment $undefined", "variable not defined"),
        ("experiment di\u202egits", "U\\+202E at 2"),
        ("experiment " + "x" * 70_000, "over 64 KiB"),
    ],
)
def test_bad_lines_are_refused(shell: Any, line: str, message: str) -> None:
    name, _, rest = line.partition(" ")
    with pytest.raises(InvalidInput, match=message):
        shell.run_line_magic(name, rest)


def test_absent_things_are_named(shell: Any) -> None:
    with pytest.raises(NotFound, match="no model"):
        shell.run_line_magic("model", "show digits/1")


def test_help_is_the_manual(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert shell.run_line_magic("model", "--help") is None
    assert "champion" in capsys.readouterr().out
