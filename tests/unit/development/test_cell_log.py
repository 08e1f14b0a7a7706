"""Cells that a front end runs without storing them: nbval does so with all, a variable inspector with its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.development.lineage import cell_log
from mlcycle_nb.development.provenance import session_cells


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A followed shell, whose cells can ask for the provenance they would get."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    from IPython.core.interactiveshell import InteractiveShell

    InteractiveShell.clear_instance()
    running = InteractiveShell.instance()
    cell_log.watch(running)
    running.push({"session_cells": session_cells})
    yield running
    cell_log.unwatch(running)
    running.history_manager.end_session()
    InteractiveShell.clear_instance()


def run(shell: Any, *cells: str, stored: bool) -> None:
    for cell in cells:
        shell.run_cell(cell, store_history=stored)


def test_they_count_where_the_front_end_stores_none(shell: Any) -> None:
    """In the order in which they ran, with their outcome."""
    run(shell, "a = 1", "a / 0", "found = session_cells()", stored=False)

    log = cell_log.log_of(shell)
    assert log is not None
    assert shell.user_ns["found"] == ("found = session_cells()", ("a = 1", "a / 0"))
    assert [one.failed for one in log.executions()] == [False, True, False]
    assert [one.number for one in log.executions()] == [1, 2, 3]


def test_others_do_not_count(shell: Any) -> None:
    """What an extension asks the kernel between two cells is no part of the notebook."""
    run(shell, "a = 1", stored=True)
    run(shell, "dir()", stored=False)
    run(shell, "found = session_cells()", stored=True)

    assert shell.user_ns["found"] == ("found = session_cells()", ("a = 1",))


def test_they_are_forgotten_once_they_have_ended(shell: Any) -> None:
    """A button is pressed after an inspector has asked: what is recorded then is the notebook's last cell."""
    run(shell, "a = 1", stored=True)
    run(shell, "dir()", stored=False)

    assert session_cells() == ("a = 1", ())


def test_stored_cells_come_before_those_that_are_not(shell: Any) -> None:
    """A kernel that changes its front end keeps its order."""
    run(shell, "a = 1", "b = 2", stored=True)
    run(shell, "c = 3", "found = session_cells()", stored=False)

    assert shell.user_ns["found"] == ("found = session_cells()", ("a = 1", "b = 2", "c = 3"))


@pytest.mark.parametrize(("stored", "expected"), [(False, ("load()",)), (True, ())])
def test_the_cell_that_begins_the_log_counts_too(
    shell: Any, monkeypatch: pytest.MonkeyPatch, stored: bool, expected: tuple[str, ...]
) -> None:
    """A kernel knows its text from the message that asked for it; a stored one is in the history anyway."""
    message = {"content": {"code": "load()", "store_history": stored, "silent": False}}
    monkeypatch.setattr(type(shell), "get_parent", lambda self: message, raising=False)
    cell_log.unwatch(shell)
    shell.push({"load": lambda: cell_log.watch(shell) and None})

    run(shell, "load()", stored=False)
    run(shell, "found = session_cells()", stored=False)

    assert shell.user_ns["found"] == ("found = session_cells()", expected)
