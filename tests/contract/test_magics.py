"""Every magic: help, refusals and suggestions are the same in all stages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb import extension
from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.store.audit import events
from mlcycle_nb.workspace import Workspace

MAGICS = sorted(
    {(kind, name) for stage in extension.stage_classes() for kind in stage.magics for name in stage.magics[kind]}
)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from IPython.core.interactiveshell import InteractiveShell

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.chdir(tmp_path)
    running = InteractiveShell()
    extension.load(running)
    yield running
    extension.unload(running)
    running.history_manager.end_session()


def run(shell: Any, kind: str, name: str, line: str) -> Any:
    return shell.run_cell_magic(name, line, "x = 1\n") if kind == "cell" else shell.run_line_magic(name, line)


def test_every_stage_has_its_magics() -> None:
    """The names that notebooks are written with."""
    wanted = {
        *("mlcycle", "audit", "experiment", "runs", "model", "train", "validate", "deploy", "promote", "abort"),
        *("pause", "resume", "rollback", "disagreements", "consumer", "monitor", "alerts", "silence", "maintenance"),
        *("label", "retire"),
        *("lifecycle", "approve"),
    }

    assert wanted <= {name for kind, name in MAGICS if kind == "line"}
    assert ("cell", "train") in MAGICS


@pytest.mark.parametrize(("kind", "name"), MAGICS)
def test_help_and_refusals(
    kind: str, name: str, shell: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Help is shown; what cannot be meant is refused in one line, and nothing is done."""
    parser = shell.magics_manager.magics[kind][name].parser
    assert run(shell, kind, name, "--help") is None
    shown = capsys.readouterr().out
    assert "usage" in shown
    assert f"%{name}" in shown
    assert not (tmp_path / ".mlcycle").exists(), "help must not make a workspace"
    assert parser.description or parser.epilog or len(shown) > 60

    for line, words in (
        ("--no-such-option x", "unknown option --no-such-option"),
        ('"a', "unclosed quote at column 1"),
        ("a $undefined", "variable not defined: \\$undefined"),
        ("a \u202e", "contains U\\+202E"),
        ("x" * 70_000, "over 64 KiB"),
    ):
        with pytest.raises(InvalidInput, match=words) as caught:
            run(shell, kind, name, line)
        assert "\n" not in str(caught.value)

    with Workspace.open(tmp_path / ".mlcycle") as workspace:
        told = events(workspace.store)
    assert [event["event"] for event in told] == ["rejected"] * 5
    assert {event["subject"] for event in told} == {f"magic:{name}"}


@pytest.mark.parametrize(("kind", "name"), MAGICS)
def test_options_are_explained(kind: str, name: str, shell: Any) -> None:
    """The option's help is the manual."""
    parser = shell.magics_manager.magics[kind][name].parser
    silent = [a.option_strings or a.dest for a in parser._actions if a.option_strings and not a.help]

    assert silent == []
