"""The magics of development, through a real IPython shell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.development.service import ModelDevelopmentManager
from mlcycle_nb.errors import InvalidInput, NotFound
from mlcycle_nb.stage_knowledge import stage_knowledge


class OneWorkspace:
    """What the magics need of a workspace."""

    def __init__(self, development: ModelDevelopmentManager) -> None:
        self.development = development
        self.context: Context = development.context


@pytest.fixture
def development(development: ModelDevelopmentManager) -> ModelDevelopmentManager:
    """As a whole workspace has it."""
    return ModelDevelopmentManager(development.context, stage_knowledge)


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
        ("model history digits --since later", "--since is not a time"),
        ("model alias digits/1 a b", "one word too many"),
        ("model delete digits/1 now", "one word too many"),
        ("model crad digits/1", "did you mean 'card'"),
        ("model card", "a model is missing"),
        ("runs delete", "a run is named with delete"),
        ("runs list r1", "a run is named with delete"),
        ("runs --where metrics.x", "a name, an operator and a value"),
        ("runs --sort loss", "known: metrics.NAME"),
        ("comment digits/1", "a text is missing"),
        ("comment digits/1#1 x --delete", "exclude each other"),
        ("comment digits/1#1 --delete --edit x", "exclude each other"),
        ("comment nonsense --delete", "not the id of a comment"),
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


def test_people_comment_own_and_delete(shell: Any, development: ModelDevelopmentManager, package: Any) -> None:
    """As a notebook does it, one line each."""
    for _ in range(2):
        development.register_model("digits", package)
    with development.start_run(run_name="r1") as run:
        run.log_metrics({"loss": 0.1})

    assert shell.run_line_magic("model", "owner digits tester bob").owners == ("tester", "bob")
    assert shell.run_line_magic("model", "reviewer digits carol").reviewers == ("carol",)
    assert "owned by tester, bob" in repr(shell.run_line_magic("model", "owner digits"))
    assert shell.run_line_magic("comment", 'digits/2 "looks good"').id == "digits/2#1"
    assert shell.run_line_magic("comment", 'digits/2#1 --edit "looks better"').text == "looks better"
    assert "looks better" in repr(shell.run_line_magic("comments", "digits"))
    assert shell.run_line_magic("comment", "digits/2#1 --delete").text == ""
    assert "facts compared" not in repr(shell.run_line_magic("model", "card digits/2"))
    assert "was deleted by tester@here" in shell.run_line_magic("model", "delete digits/2 --reason old")
    assert "r1" in shell.run_line_magic("runs", "delete r1")
    assert "none yet" in repr(shell.run_line_magic("runs", ""))


def test_a_card_is_written_and_checked(
    shell: Any, development: ModelDevelopmentManager, package: Any, tmp_path: Path
) -> None:
    development.register_model("digits", package)
    file = tmp_path / "card.md"

    assert "written to" in shell.run_line_magic(
        "model", f'card digits/1 --licence MIT --say "intended use" "tests" --to {file}'
    )
    assert "Said by people" in file.read_text()
    assert shell.run_line_magic("model", f"card digits/1 --check {file}").passed
    file.write_text(file.read_text().replace("| features | 3 |", "| features | 4 |"))
    assert "features  4              3" in repr(shell.run_line_magic("model", f"card digits/1 --check {file}"))


def test_filtered_runs(shell: Any, development: ModelDevelopmentManager) -> None:
    for loss in (0.1, 0.2):
        with development.start_run(run_name=f"r{loss}") as run:
            run.log_metrics({"loss": loss})

    shown = shell.run_line_magic("runs", '--where "metrics.loss > 0.15" --sort metrics.loss --limit 5 --into found')
    assert [run.name for run in shown.snapshot()] == ["r0.2"]
    assert shell.user_ns["found"].to_frame()["metrics.loss"].tolist() == [0.2]
