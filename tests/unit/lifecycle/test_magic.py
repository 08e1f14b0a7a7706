"""``%lifecycle`` and ``%approve`` in a real shell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.errors import InvalidInput, NotFound, Refused
from mlcycle_nb.lifecycle.service import ModelLifecycleManager


class OneWorkspace:
    def __init__(self, lifecycle: ModelLifecycleManager) -> None:
        self.lifecycle = lifecycle
        self.context: Context = lifecycle.context


@pytest.fixture
def shell(lifecycles: ModelLifecycleManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    from IPython.core.interactiveshell import InteractiveShell

    from mlcycle_nb.lifecycle.magic import LifecycleMagics
    from mlcycle_nb.notebook.magics import register

    InteractiveShell.clear_instance()
    running = InteractiveShell.instance()
    register(running, [LifecycleMagics(running, lambda: OneWorkspace(lifecycles))])
    yield running
    running.history_manager.end_session()
    InteractiveShell.clear_instance()


def test_a_life_in_magics(shell: Any, evidence: Any) -> None:
    shell.run_line_magic("lifecycle", "create digits --purpose 'reads digits'")
    shell.run_line_magic("lifecycle", "advance digits")
    with pytest.raises(NotFound, match="no version"):
        shell.run_line_magic("lifecycle", "advance digits")
    evidence.newest = 2
    evidence.open("version", "package")
    shell.run_line_magic("lifecycle", "advance digits --to validation --version 1")
    with pytest.raises(Refused, match="gate verdict is inconclusive"):
        shell.run_line_magic("lifecycle", "advance digits")
    shown = shell.run_line_magic("lifecycle", "advance digits --force --reason 'the fair is tomorrow'")

    assert "[deployment]" in repr(shown)
    assert "forced" in repr(shell.run_line_magic("lifecycle", "history digits"))
    assert "refused" in repr(shell.run_line_magic("lifecycle", "history digits"))
    assert "digits/1" in repr(shell.run_line_magic("lifecycle", "list"))
    assert "cycle 1" in repr(shell.run_line_magic("lifecycle", "status digits --into seen"))
    assert "seen" in shell.user_ns


@pytest.mark.parametrize(
    ("name", "line", "kind", "message"),
    [
        ("lifecycle", "advnace digits", InvalidInput, "did you mean 'advance'"),
        ("lifecycle", "advance", InvalidInput, "a name is missing"),
        ("lifecycle", "status digits", NotFound, "no lifecycle of this name"),
        ("lifecycle", "advance digits --frce", InvalidInput, "did you mean '--force'"),
        ("lifecycle", "create digits --env mars", InvalidInput, "no environment"),
        ("approve", "", InvalidInput, "model"),
        ("approve", "digits/1 --stage mars", InvalidInput, "no environment"),
        ("approve", "digits/1", NotFound, "no such version"),
    ],
)
def test_bad_lines_are_refused(shell: Any, name: str, line: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        shell.run_line_magic(name, line)
