"""Supervisors that are killed at any place: exactly as many results as were asked for, and none twice."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlcycle_nb.context import Context, open_context
from mlcycle_nb.settings import load_settings
from mlcycle_nb.supervisor.sockets import remove_socket_folder
from mlcycle_nb.testing import FakeClock
from mlcycle_nb.training.records import Failure
from mlcycle_nb.training.search.study import study_name

sys.path.insert(0, str(Path(__file__).parent))

from world import Search, Workers, make_search

KILLS = st.frozensets(st.integers(1, 90), max_size=25)
DEATHS = st.frozensets(st.integers(0, 4), max_size=3)
CRASH = Failure(kind="crash", message="the workers died 6 times in a row")


@contextmanager
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    folder = tmp_path_factory.mktemp("search") / ".mlcycle"
    opened = open_context(folder, load_settings(environ={}), actor="tester@here", clock=FakeClock())
    opened.store.engine.dispose()
    yield opened
    opened.store.close()
    remove_socket_folder(opened.home)


def stored(context: Context, search: Any) -> list[tuple[int, str]]:
    """Return what the study's own database holds."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name=study_name(search), storage=f"sqlite:///{context.home / 'search.db'}")
    return [(trial.number, trial.state.name) for trial in study.get_trials()]


STATES = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "stopped": "FAIL"}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    """The results of a search during which nobody is killed."""
    with fresh(tmp_path_factory) as context:
        make_search(context, pruner="asha")
        search = Search(context, Workers(context))
        assert search.run().phase == "finished"
        assert {trial.phase for trial in search.trials} == {"complete", "pruned"}
        return search.results()


def kills_do_not_show(
    kills: frozenset[int | str], factory: pytest.TempPathFactory, unbroken: list[tuple[Any, ...]]
) -> int:
    with fresh(factory) as context:
        make_search(context, pruner="asha")
        search = Search(context, Workers(context), kills)
        record = search.run()

        assert record.phase == "finished"
        assert record.ended == record.asked == record.trials == 5
        assert search.results() == unbroken
        assert stored(context, record) == [(t.number, STATES[t.phase]) for t in search.trials]
        assert len(search.tracking.started) == 1
        assert not search.tracking.open
        return search.kills


def each_trial_counts_once(kills: frozenset[int], deaths: frozenset[int], factory: pytest.TempPathFactory) -> None:
    with fresh(factory) as context:
        make_search(context, concurrent=2, pruner="asha")
        dying = {f"digits-search-1-t{number}" for number in deaths}
        search = Search(context, Workers(context, lambda job: CRASH if job in dying else None), kills)
        record = search.run()

        assert record.phase == "finished"
        assert [trial.number for trial in search.trials] == list(range(5))
        assert all(trial.phase in {"complete", "pruned"} for trial in search.trials)
        assert record.ended == 5
        assert stored(context, record) == [(t.number, STATES[t.phase]) for t in search.trials]
        assert len(search.workers.trained) == len(set(search.workers.trained))
        retried = {trial.number for trial in search.trials if trial.tries == 2}
        pruned = {trial.number for trial in search.trials if trial.phase == "pruned"}
        assert deaths - pruned <= retried <= deaths


NAMED = frozenset(
    {
        *("search.after_track", "search.after_draw", "search.after_folder", "search.after_report"),
        *("search.after_verdict", "search.after_judge", "search.after_tell", "search.before_close"),
        *("before commit", "after commit"),
    }
)


@pytest.mark.timeout(240)
def test_a_kill_after_each_thing_that_is_done_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, unbroken: list[tuple[Any, ...]]
) -> None:
    """At the first visit of every crash point."""
    assert kills_do_not_show(NAMED, tmp_path_factory, unbroken) == len(NAMED)


@pytest.mark.timeout(240)
def test_a_late_verdict_holds_for_the_report_it_was_given_on(
    tmp_path_factory: pytest.TempPathFactory, unbroken: list[tuple[Any, ...]]
) -> None:
    """Kills that let the workers report again between a verdict and its record."""
    kills = frozenset({5, 14, 27, 29, 30, 36, 41, 46, 55, 56, 60, 62, 68, 69, 72, 78, 82, 83, 86, 89})

    assert kills_do_not_show(kills, tmp_path_factory, unbroken) > 10


@pytest.mark.timeout(240)
@settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=KILLS)
def test_a_killed_search_equals_an_unbroken_one(
    kills: frozenset[int], tmp_path_factory: pytest.TempPathFactory, unbroken: list[tuple[Any, ...]]
) -> None:
    """With one trial at a time: the same draws, the same pruned trials, the same values, one run."""
    kills_do_not_show(kills, tmp_path_factory, unbroken)


@pytest.mark.timeout(240)
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=KILLS, deaths=DEATHS)
def test_jobs_that_die_are_tried_anew(
    kills: frozenset[int], deaths: frozenset[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two at a time, with jobs that die beyond their own recovery."""
    each_trial_counts_once(kills, deaths, tmp_path_factory)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=KILLS, deaths=DEATHS)
def test_many_crash_scripts(
    kills: frozenset[int],
    deaths: frozenset[int],
    tmp_path_factory: pytest.TempPathFactory,
    unbroken: list[tuple[Any, ...]],
) -> None:
    """Both of the above, with many more scripts."""
    kills_do_not_show(kills, tmp_path_factory, unbroken)
    each_trial_counts_once(kills, deaths, tmp_path_factory)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_kill_at_each_single_place(tmp_path_factory: pytest.TempPathFactory, unbroken: list[tuple[Any, ...]]) -> None:
    """No place is left out."""
    with fresh(tmp_path_factory) as context:
        make_search(context, pruner="asha")
        search = Search(context, Workers(context))
        search.run()
        places = search.places
    for place in range(1, places + 1):
        kills_do_not_show(frozenset({place}), tmp_path_factory, unbroken)
