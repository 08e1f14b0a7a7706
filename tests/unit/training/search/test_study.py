"""Studies: drawn once whatever happens, on both databases, with each sampler and pruner."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.errors import InvalidInput, MissingDependency, StoreError
from mlcycle_nb.store import Store
from mlcycle_nb.training.events import EventWriter
from mlcycle_nb.training.search.means import choose_concurrent
from mlcycle_nb.training.search.pruners import PRUNERS
from mlcycle_nb.training.search.records import TrainingSearch
from mlcycle_nb.training.search.reports import ReportReader
from mlcycle_nb.training.search.request import read_request
from mlcycle_nb.training.search.samplers import SAMPLERS
from mlcycle_nb.training.search.study import Studies

sys.path.insert(0, str(Path(__file__).parent))

from world import make_search, score

CONTINUOUS = ("lr=log:1e-4..1e-1", "width=8,16,32", "depth=int:1..4")
FINITE = ("lr=0.001,0.01,0.1", "width=8,16,32", "depth=1,2")


def play(studies: Callable[[], Studies], search: TrainingSearch, trials: int = 8) -> list[Any]:
    """Draw, judge and tell some trials; `studies` gives the study at each step, perhaps newly opened."""
    played = []
    for number in range(trials):
        params: dict[str, Any] = studies().draw(search, number)
        reports = 0
        pruned = False
        while reports < 3 and not pruned:
            reports += 1
            pruned = studies().judge(search, number, reports, score(params, reports))
            assert studies().judge(search, number, reports, score(params, reports)) is pruned, "asked again"
        value = None if pruned else score(params, 3)
        studies().tell(search, number, "pruned" if pruned else "complete", value)
        played.append((params, reports, pruned))
    return played


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid", "qmc"])
@pytest.mark.parametrize("pruner", ["none", "asha"])
def test_a_study_opened_anew_at_each_step_goes_on_as_before(
    context: Context, tmp_path: Path, sampler: str, pruner: str
) -> None:
    """Nothing that a draw or a verdict depends on is in memory; doing a step twice is doing it once."""
    search = make_search(context, sampler=sampler, pruner=pruner, space=FINITE if sampler == "grid" else CONTINUOUS)
    for folder in ("one", "many"):
        (tmp_path / folder).mkdir()
    kept = Studies(tmp_path / "one")
    unbroken = play(lambda: kept, search)

    again = play(lambda: Studies(tmp_path / "many"), search)

    assert again == unbroken
    assert len({str(params) for params, _, _ in unbroken}) == 8
    assert all(list(params) == ["lr", "width", "depth"] for params, _, _ in unbroken)
    assert any(pruned for _, _, pruned in unbroken) is (pruner == "asha")
    twice = Studies(tmp_path / "many")
    twice.tell(search, 7, "complete", 1.0)
    assert [twice.draw(search, number) for number in range(8)] == [params for params, _, _ in unbroken]


def test_every_pruner_can_be_made() -> None:
    """By its name, and with hyphens on the magic's line."""
    for name in PRUNERS.names():
        assert hasattr(PRUNERS.load(name)(5), "prune")
    assert read_request(["x=1,2"], pruner="successive-halving").pruner == "successive_halving"


@pytest.mark.postgres
def test_tables_stand_apart_on_postgresql(postgres_url: str, context: Context, tmp_path: Path) -> None:
    """Optuna's migrations and ours use a table of the same name: it is in a schema of its own."""
    from sqlalchemy import text

    store = Store(tmp_path / "elsewhere", context.clock, postgres_url)
    search = make_search(context)
    assert len(play(lambda: Studies(tmp_path, postgres_url), search, trials=2)) == 2

    with store.engine.connect() as connection:
        schemas = connection.execute(text("SELECT schemaname FROM pg_tables WHERE tablename = 'alembic_version'"))
        assert sorted(schemas.scalars()) == ["mlcycle_search", "public"]
    store.close()
    assert Store(tmp_path / "elsewhere", context.clock, postgres_url).workspace_id
    assert not (tmp_path / "search.db").exists()


def test_a_broken_database_is_said_in_one_line(context: Context, tmp_path: Path) -> None:
    """And names what to look at."""
    (tmp_path / "search.db").write_bytes(b"this is no database" * 100)

    with pytest.raises(StoreError, match=r"database of searches cannot be used: .*not a database"):
        Studies(tmp_path).draw(make_search(context), 0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sampler": "grid", "space": ["x=0.0..1.0"]}, "finitely many values"),
        ({"sampler": "grid", "trials": 3}, "the grid has 2 combinations"),
        ({"trials": 0}, "trials must be a whole number"),
        ({"trials": True}, "trials must be a whole number"),
        ({"max_failures": 0}, "max_failures must be a whole number"),
        ({"metric": " "}, "named by a text"),
        ({"direction": "maximise"}, "did you mean 'maximize'"),
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"epochs": 0}, "epochs must be"),
    ],
)
def test_requests_that_are_refused(options: dict[str, Any], told: str) -> None:
    """Each with its own line."""
    with pytest.raises(InvalidInput, match=told):
        read_request(options.pop("space", ["x=1,2"]), **options)


def test_defaults() -> None:
    """A grid is gone through once; the direction is told from the metric's name."""
    assert read_request(["x=1,2", "y=1,2,3"], sampler="grid").first_trials == 6
    assert read_request(["x=1,2"]).first_trials == 20
    assert read_request(["x=1,2"], metric="val_accuracy").direction == "maximize"
    assert read_request(["x=1,2"], metric="val_loss").direction == "minimize"


def test_a_sampler_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pip line comes before anything is made."""
    monkeypatch.setitem(sys.modules, "cmaes", None)
    assert "cmaes" in SAMPLERS.names()
    with pytest.raises(MissingDependency, match="pip install"):
        read_request(["x=0.0..1.0"], sampler="cmaes")


def test_how_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the cores, by the memory, and not without end."""
    monkeypatch.setattr("mlcycle_nb.training.search.means.threads_for", lambda processes: 8 // processes)
    monkeypatch.setattr("mlcycle_nb.training.search.means.available_bytes", lambda: 64_000_000_000)
    options: dict[str, Any] = {"payload_bytes": 0, "device": "cpu"}
    assert choose_concurrent(None, processes=1, **options) == 8
    assert choose_concurrent(None, processes=3, **options) == 2
    assert choose_concurrent(None, processes=16, **options) == 1
    assert choose_concurrent(32, processes=1, **options) == 32
    for asked in (0, 33, True):
        with pytest.raises(InvalidInput, match="from 1 to 32"):
            choose_concurrent(asked, processes=1, **options)
    monkeypatch.setattr("mlcycle_nb.training.search.means.available_bytes", lambda: 2_000_000_000)
    assert choose_concurrent(None, processes=1, **options) == 2
    assert choose_concurrent(None, processes=1, payload_bytes=9_000_000_000, device="cpu") == 1


def test_reports_of_a_resumed_job_take_the_place_of_the_old_ones(tmp_path: Path) -> None:
    """A report is known by its step, and what is not finite is told as it is."""
    reader = ReportReader(tmp_path, "score")
    for attempt, rows in ((1, [(10, 0.1), (20, 0.2), (30, 0.3)]), (2, [(20, 0.25), (30, float("nan"))])):
        writer = EventWriter(tmp_path / "rank-0.jsonl", rank=0, attempt=attempt)
        for step, value in rows:
            writer.write("epoch", epoch=step // 10, step=step, values={"loss": 1.0, "score": value})
        writer.close()
        found = reader.read()

    assert found[:2] == (0.1, 0.25)
    assert found[2] != found[2]
    assert reader.names == ("loss", "score")
