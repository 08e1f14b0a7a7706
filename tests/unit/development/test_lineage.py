"""Whether the notebook would give a run again: each way in which it would not, with the cell in the reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mlcycle_nb.development.lineage.cell_log import Execution
from mlcycle_nb.development.lineage.document import Document
from mlcycle_nb.development.lineage.effects import effects, names_used
from mlcycle_nb.development.lineage.verdict import why_not

START = datetime(2026, 1, 1, tzinfo=UTC)
USE = ("use", "fit(y)")
Cells = list[tuple[str, str]]


def ran(*cells: tuple[str, str]) -> list[Execution]:
    """Return executions, a second apart; each is an id and a text."""
    return [
        Execution(number=number, source=text, code=text, cell=cell, at=START + timedelta(seconds=number))
        for number, (cell, text) in enumerate(cells, 1)
    ]


def saved(*cells: tuple[str, str], seconds: float = 1000) -> Document:
    """Return a notebook that was saved `seconds` after the start."""
    return Document(dict(cells), START + timedelta(seconds=seconds))


X1, X2, Y = ("x", "x = 1"), ("x", "x = 2"), ("y", "y = x + 1")


@pytest.mark.parametrize(
    "cells",
    [
        [X1, Y, USE],
        [X1, Y, X1, USE],  # the same cell again, unchanged
        [X1, Y, X2, Y, USE],  # edited, and all that follows from it run again
        [X1, ("x", "x = 1  # one"), Y, USE],
        [X1, Y, ("x", "x  =  1  # spacing and comments do not count"), USE],
        [X1, Y, ("new", "x = 7"), Y, USE],  # a cell put in above
        [X1, Y, ("z", "z = 5"), ("z", "z = 6"), USE],  # what is edited is not used
        [("f", "def y():\n    return z"), ("z", "z = 1"), ("z", "z = 2"), USE],  # z is read when y is called
        [("x", "y = [1]"), ("show", "len(y)"), ("show", "len(y)"), USE],
        [("", "x = 1"), ("", "y = x"), ("", "x = 2"), USE],  # without ids the history is the program
        [("use", "fit(y)"), X1, Y, ("use", "fit(y)")],
    ],
)
def test_would_be_the_same(cells: Cells) -> None:
    assert why_not(ran(*cells)) == []


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([X1, Y, X2, USE], "`y` was made by In [2] from `x`: `x` was defined by In [1], whose cell was edited since "
         "and run again as In [3]"),
        ([X1, ("y", "y = 1"), ("y", "z = 1"), USE], "`y` was defined by In [2], whose cell was edited since and run "
         "again as In [3]"),
        ([("f", "f = lambda v: v"), ("y", "y = f(2)"), ("f", "f = lambda v: 2 * v"), USE],
         "`y` was made by In [2] from `f`: `f` was defined by In [1], whose cell was edited since"),
        ([("f", "def f(): return g"), ("g", "g = 1"), ("y", "y = f()"), ("g", "g = 2"), USE],
         "from `f`: `f` was made by In [1] from `g`: `g` was defined by In [2], whose cell was edited since"),
        ([("x", "y = 1"), ("more", "y += 1"), ("more", "y += 1"), USE],
         "`y` was changed from its earlier value by In [2] and again by In [3], the same cell"),
        ([("x", "y = []"), ("more", "y.append(1)"), ("more", "y.append(1)"), USE], "changed from its earlier value"),
        ([("x", "y = {}"), ("more", "y['a'] = 1"), ("more", "y['a'] = 2"), USE], "In [2], whose cell was edited since"),
    ],
)  # fmt: skip
def test_would_be_another(cells: Cells, reason: str) -> None:
    found = why_not(ran(*cells))

    assert len(found) == 1
    assert reason in found[0]


@pytest.mark.parametrize(
    ("cells", "document", "reason"),
    [
        ([("b", "y = 1"), ("a", "y = 2"), USE], [("a", "y = 2"), ("b", "y = 1"), USE],
         "`y` was defined by In [2], which was run after In [1] although its cell stands above it"),
        ([X1, Y, ("z", "x = 5"), USE], [X1, ("z", "x = 5"), Y, USE],
         "`x` was defined by In [1], which was run before In [3]; from top to bottom the cell of In [3]"),
        ([("b", "y = 1"), USE], [USE, ("b", "y = 1")], "In [1], whose cell stands below this one in the notebook"),
        ([X1, Y, USE], [("x", "x = 3"), Y, USE], "In [1], whose cell was edited since and not run again"),
        ([X1, Y, USE], [Y, USE], "In [1], whose cell was deleted since"),
        ([Y, X1, USE], [X1, Y, USE], "`x` was not defined when this ran"),
    ],
)  # fmt: skip
def test_with_the_notebooks_order(cells: Cells, document: Cells, reason: str) -> None:
    found = why_not(ran(*cells), document=saved(*document))

    assert any(reason in text for text in found), found


def test_a_notebook_saved_before_the_cells_ran_says_nothing_of_them() -> None:
    assert why_not(ran(X1, Y, USE), document=saved(Y, USE, seconds=-1)) == []
    assert why_not(ran(X1, Y, USE), document=saved(("x", "x = 3"), Y, USE, seconds=-1)) == []


def test_cells_from_before_they_were_followed_come_first() -> None:
    executions = [Execution(number=1, source="a = 1", code="a = 1"), *ran(("", ""), ("y", "y = a"), USE)[1:]]

    assert why_not(executions, document=saved(("load", "a = 1"), ("y", "y = a"), USE)) == []
    assert "In [2], whose cell was edited" in why_not(executions, document=saved(("y", "y = 2"), USE))[0]


def test_a_cell_that_the_front_end_says_is_deleted() -> None:
    assert "In [1], whose cell was deleted since" in why_not(ran(X1, Y, USE), deleted=["x"])[0]


def test_names_that_only_the_call_needs() -> None:
    """`train_model(text, globals())`: the running cell's text does not say what is used."""
    cells = [X1, Y, X2, ("use", "train_model(source, globals())")]

    assert why_not(ran(*cells)) == []
    assert why_not(ran(*cells), needs=["y"]) != []


def test_a_cell_that_raised_bound_only_what_was_seen() -> None:
    broken = Execution(number=2, source="y = 5", code="y = 1 / 0", cell="y", failed=True, changed=frozenset())
    executions = [*ran(("y", "y = 1")), broken, Execution(number=3, source=USE[1], code=USE[1], cell="use")]

    assert "whose cell was edited since and run again as In [2]" in why_not(executions)[0]


def test_many_functions_that_call_each_other_take_no_time() -> None:
    text = "\n".join(f"def f{i}(): return {' + '.join(f'f{j}()' for j in range(40))}" for i in range(40))

    assert why_not(ran(("f", text), ("y", "y = f0()"), USE)) == []


@pytest.mark.parametrize(
    ("text", "binds", "reads", "touches"),
    [
        ("import numpy as np, os.path", "np os", "", ""),
        ("a = [b for b in c]", "a", "c", ""),
        ("for i in rows: out.append(i)", "i", "rows out", "out"),
        ("with a as f:\n  for b in f:\n    c = b\n    d = c", "f b c d", "a", ""),
        ("if a:\n  b = 1\nelse:\n  c = 2\n  d = b + c", "b c d", "a b", ""),
        ("try:\n  a = 1\nexcept E as e:\n  b = e\nfinally:\n  c = a", "a b c e", "E", ""),
        ("model.layer.weight = w", "", "model w", "model"),
        ("torch.manual_seed(0)", "", "torch", "torch"),
        ("frame.drop(columns=c, inplace=True)", "", "frame c", "frame"),
        ("frame.head()", "", "frame", ""),
        ("train(model, data)", "", "train model data", "model data"),
        ("print(model)", "", "print model", ""),
        ("total += step", "total", "total step", ""),
        ("get_ipython().run_cell_magic('time', '', 'a = b')", "a", "b", ""),
        ("get_ipython().run_cell_magic('train', 'm --into job', 'fit(net)')", "job", "fit net", ""),
    ],
)
def test_effects(text: str, binds: str, reads: str, touches: str) -> None:
    found = effects(text)
    assert {name for effect in found for name in effect.binds} == set(binds.split())
    assert {name for effect in found for name in effect.reads} == set(reads.split())
    assert {name for effect in found for name in effect.touches} == set(touches.split())


def test_what_functions_read_is_read_later() -> None:
    (effect,) = effects("def f(a=default):\n    return a + late")

    assert (effect.reads, effect.later) == ({"default"}, {"late"})
    assert names_used("x = 1\ndef f(): return x + y\nf()") == {"y"}
