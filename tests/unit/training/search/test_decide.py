"""What a search does next, state by state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlcycle_nb.training.records import Failure
from mlcycle_nb.training.search import decide
from mlcycle_nb.training.search.decide import OpenTrial, SearchObservation, next_action, with_result
from mlcycle_nb.training.search.records import SearchTrial, TrainingSearch
from mlcycle_nb.training.search.space import parse_space
from tests.builders import NOW, training_job

BAD = Failure(kind="user", message="no")


def search(**changes: Any) -> TrainingSearch:
    fields: dict[str, Any] = {"run_id": "r", "run_open": True, "trials": 4, "concurrent": 2, "max_failures": 2}
    return TrainingSearch(
        id="s",
        phase="running",
        created_at=NOW,
        model="m",
        key="k",
        cell_digest="",
        data_digest="",
        space=parse_space(["x=1,2"]),
        sampler="tpe",
        pruner="none",
        metric="score",
        direction="maximize",
        seed=0,
        processes=1,
        epochs=3,
        params={},
        **{**fields, **changes},
    )


def one(number: int = 0, phase: str = "running", job: str | None = "running", **changes: Any) -> OpenTrial:
    names = {name: changes.pop(name) for name in ("reports", "judged", "names") if name in changes}
    stopping = changes.pop("stopping", False)
    kept = changes.pop("kept", ())
    failure = changes.pop("failure", None)
    record = None
    if job is not None:
        asked = NOW if stopping else None
        record = training_job(f"s-t{number}", phase=job, epochs=3, failure=failure, stop_requested_at=asked)
    fields: dict[str, Any] = {"job": f"s-t{number}" if record else "", "tries": 1, "reports": kept, **changes}
    trial = SearchTrial(id=f"s-t{number}", phase=phase, created_at=NOW, search="s", number=number, params={}, **fields)
    return OpenTrial(trial=trial, job=record, **names)


def seen(*trials: OpenTrial, memory_allows: bool = True) -> SearchObservation:
    return SearchObservation(open=trials, memory_allows=memory_allows)


CRASHED = Failure(kind="crash", message="died")
STOPPED = {"stop_requested_at": NOW}


@pytest.mark.parametrize(
    ("record", "look", "action"),
    [
        (search(run_open=False), seen(), decide.Track()),
        (search(), seen(), decide.Draw(0)),
        (search(asked=1), seen(one(phase="waiting", job=None)), decide.Dispatch(0)),
        (search(asked=1), seen(one()), decide.Draw(1)),
        (search(asked=1), seen(one(), memory_allows=False), None),
        (search(asked=1), seen(one(phase="waiting", job=None), memory_allows=False), decide.Dispatch(0)),
        (search(asked=2), seen(one(0), one(1)), None),
        (search(asked=4, ended=3), seen(one(3)), None),
        (search(asked=2), seen(one(0, reports=(1.0, 2.0), judged=1), one(1)), decide.Judge(0, 1)),
        (search(asked=1), seen(one(job="finished", reports=(1.0,))), decide.Judge(0, 0)),
        (search(asked=1), seen(one(job="finished", reports=(1.0, 3.0), judged=2)), decide.Tell(0, "complete", 3.0)),
        (search(asked=1), seen(one(job="pruned", reports=(1.0,), judged=1)), decide.Tell(0, "pruned", 1.0)),
        (search(asked=1), seen(one(phase="pruning", job="finished", kept=(2.0, 1.0))), decide.Tell(0, "pruned", 1.0)),
        (search(asked=1), seen(one(phase="pruning", job=None, kept=(2.0, 1.0))), decide.Tell(0, "pruned", 1.0)),
        (search(asked=1, concurrent=1), seen(one(phase="pruning", kept=(1.0,))), None),
        (search(asked=1), seen(one(job="failed", failure=BAD)), decide.Tell(0, "failed", failure=BAD)),
        (search(asked=1), seen(one(job="failed", failure=CRASHED)), decide.Requeue(0, "died")),
        (search(asked=1), seen(one(job="failed", failure=CRASHED, tries=3)), decide.Tell(0, "failed", failure=CRASHED)),
        (search(asked=1), seen(one(job=None)), decide.Requeue(0, "its job is gone")),
        (search(asked=2, **STOPPED), seen(one(0), one(1)), decide.StopTrial(0)),
        (search(asked=1, **STOPPED), seen(one(phase="stopping", stopping=True)), None),
        (search(asked=1, **STOPPED), seen(one(phase="stopping", job="stopped")), decide.Pause(0)),
        (search(asked=1), seen(one(phase="stopping", job="stopped")), decide.Pause(0)),
        (search(asked=1, **STOPPED), seen(one(phase="waiting", job="stopped")), decide.Close("stopped")),
        (search(asked=1, failure=BAD), seen(), decide.Close("failed", BAD)),
        (search(asked=4, ended=4, best=1), seen(), decide.Close("finished")),
        (search(asked=4, ended=4, best=1, register=True), seen(), decide.Register()),
        (search(asked=4, ended=4, best=1, register=True, registered="m/1"), seen(), decide.Close("finished")),
        (search(asked=4, ended=4, best=1, register=True, registration_error="no"), seen(), decide.Close("finished")),
        (replace(search(), phase="finished"), seen(), None),
    ],
)
def test_next_action(record: TrainingSearch, look: SearchObservation, action: object) -> None:
    """One action a state."""
    assert next_action(record, look, NOW) == action


def test_a_job_stopped_by_hand_is_a_result() -> None:
    """It neither waits for ever nor ends the search."""
    told = next_action(search(asked=1), seen(one(job="stopped")), NOW)

    assert isinstance(told, decide.Tell)
    assert told.phase == "stopped"
    assert with_result(search(asked=1, failures_in_a_row=1), told, "j").failures_in_a_row == 1


def test_a_value_that_is_not_finite_fails_the_trial() -> None:
    """And is never the best."""
    told = next_action(search(asked=1), seen(one(job="finished", reports=(1.0, float("nan")), judged=2)), NOW)

    assert isinstance(told, decide.Tell)
    assert (told.phase, told.value) == ("failed", None)
    assert "score became nan" in str(told.failure)
    assert with_result(search(asked=1), told, "j").best is None


@pytest.mark.parametrize(("reported", "fatal"), [(False, True), (True, False)])
def test_a_missing_metric_is_named_and_ends_a_search_that_never_saw_it(reported: bool, fatal: bool) -> None:
    """A trial alone may skip it."""
    look = seen(one(job="finished", names=("loss", "val_loss")))
    told = next_action(search(asked=1, reported=reported), look, NOW)

    assert isinstance(told, decide.Tell)
    assert told.fatal is fatal
    assert "without reporting 'score'; reported were loss, val_loss" in str(told.failure)
    assert (with_result(search(asked=1), told, "j").failure is not None) is fatal


def test_failures_in_a_row_end_it_and_others_reset_the_count() -> None:
    """Two with `max_failures` 2; one in between begins the count again."""
    failed = decide.Tell(0, "failed", failure=BAD)
    once = with_result(search(), failed, "j")
    assert (once.failures_in_a_row, once.failure) == (1, None)
    assert with_result(once, decide.Tell(1, "pruned", 0.1), "j").failures_in_a_row == 0
    twice = with_result(once, failed, "j")
    assert "2 trials failed in a row" in str(twice.failure)
    assert next_action(twice, seen(), NOW) == decide.Close("failed", twice.failure)


@pytest.mark.parametrize(("direction", "best"), [("maximize", 1), ("minimize", 0)])
def test_the_best_is_the_first_of_the_best(direction: Any, best: int) -> None:
    """A pruned trial is never the best, and an equal one does not take its place."""
    record = replace(search(), direction=direction)
    for number, (phase, value) in enumerate([("complete", 1.0), ("complete", 2.0), ("complete", 2.0), ("pruned", 9.0)]):
        record = with_result(record, decide.Tell(number, phase, value), f"j{number}")

    assert (record.best, record.best_job, record.ended) == (best, f"j{best}", 4)


def test_a_search_without_a_completed_trial_has_failed() -> None:
    """All stopped, or all pruned but failed ones."""
    closed = next_action(search(asked=4, ended=4), seen(), NOW)

    assert isinstance(closed, decide.Close)
    assert closed.phase == "failed"
