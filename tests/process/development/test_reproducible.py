"""Runs in a real kernel: marked with the cell that is to blame, shown everywhere, and run again by `%reproduce`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlcycle_nb.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent))

from kernel import Kernel, kernel

pytestmark = pytest.mark.timeout(400)

LOAD = ("load", "%load_ext mlcycle_nb\nimport random")
SEED = ("seed", "random.seed(3)\nrows = [random.random() for _ in range(5)]")
DOUBLE = ("double", "def double(values):\n    return [factor * value for value in values]")
FACTOR = ("factor", "factor = 2")
RUN = ("run", "with workspace.development.start_run(data={'rows': rows}) as run:\n"
       "    for step, value in enumerate(double(rows)):\n        run.log_metrics({'value': value}, step)\n"
       "tuple(run.reproducible)")  # fmt: skip
WHOLE = (LOAD, SEED, DOUBLE, FACTOR, RUN)


@pytest.fixture
def session(workspace: Workspace) -> Iterator[Kernel]:
    """A kernel beside the test's workspace."""
    with kernel(workspace.home.parent, MLCYCLE_HOME=str(workspace.home)) as running:
        yield running


def run_all(session: Kernel, *cells: tuple[str, str]) -> str:
    return [session.run(*cell) for cell in cells][-1]


def test_a_clean_notebook_and_all_the_ways_to_spoil_it(session: Kernel, workspace: Workspace) -> None:
    """One kernel for all: starting one takes longer than what is tested."""
    session.save(*WHOLE)
    assert run_all(session, *WHOLE) == "(True, ())"
    clean = workspace.development.runs(limit=1)[0]
    assert clean.reproducible
    assert "yes" in session.run("show", "%runs")

    # an edited cell, of which a function that the run calls reads a name, is run again: all follows it
    edited = ("factor", "factor = 3")
    session.save(LOAD, SEED, DOUBLE, edited, RUN)
    assert run_all(session, edited, RUN) == "(True, ())"

    # rows come from the old text
    session.save(LOAD, ("seed", "random.seed(4)\nrows = []"), DOUBLE, edited, RUN)
    shown = session.run(*RUN)
    assert "`rows` was defined by In [2], whose cell was edited since and not run again" in shown
    assert "no: `rows` was defined by In [2]" in session.run("show", "%runs")
    spoiled = workspace.development.runs(limit=1)[0]
    assert not spoiled.reproducible
    assert "In [2]" in spoiled.reproducible.reasons[0]

    # deleted: the front end says so, and the notebook has it no more
    session.save(LOAD, SEED, DOUBLE, RUN)
    assert "whose cell was deleted since" in session.run(*RUN, deleted=["factor"])

    # out of order: the cell above was run after the cell below
    above, below = ("above", "rows = [1.0]"), ("below", "rows = [2.0]")
    session.save(LOAD, DOUBLE, ("new", "factor = 2"), above, below, RUN)
    assert "although its cell stands above it" in run_all(session, ("new", "factor = 2"), below, above, RUN)

    # a cell that adds to what was there, run twice
    grow = ("grow", "rows = rows + [5.0]")
    session.save(LOAD, DOUBLE, ("new", "factor = 2"), above, grow, RUN)
    assert "the same cell" in run_all(session, above, grow, grow, RUN)

    # data without a digest
    session.save(LOAD, DOUBLE, ("new", "factor = 2"), above, RUN)
    run_all(session, above)
    odd = "workspace.development.start_run(data={'odd': object()}).end().reproducible"
    assert "odd: data of type object has no digest" in session.run("odd", odd)


def test_a_clean_run_is_reproduced(session: Kernel, workspace: Workspace) -> None:
    """From Python, from the magic and from the terminal; bit for bit, and not when the outside has a say."""
    session.save(*WHOLE)
    run_all(session, *WHOLE)
    run = workspace.development.runs(limit=1)[0]

    report = workspace.development.reproduce(run.id)
    assert report.verdict == "reproduced", report
    assert [(metric.name, metric.values, metric.verdict) for metric in report.metrics] == [("value", 5, "equal")]
    again = workspace.development.run(str(report.run))
    assert again.tags["mlcycle.reproduces"] == run.id
    assert again.tags["mlcycle.reproduction"] == "reproduced"
    assert again.metrics == run.metrics

    chance = ("chance", "import os\nwith workspace.development.start_run(run_name='chance') as run:\n"
              "    run.log_metrics({'fixed': 1.0, 'chance': int.from_bytes(os.urandom(6))})")  # fmt: skip
    session.run(*chance)
    shown = session.run("again", "%reproduce chance --into report")
    assert "differs (1 of 2 metrics: chance)" in shown
    assert not list((workspace.home / "reproductions").iterdir())
