"""The panel of a search: three faces of the same trials, and charts that are drawn."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.notebook.charts import spec, to_svg
from mlcycle_nb.training.records import Failure
from mlcycle_nb.training.search.charts import coordinates_chart
from mlcycle_nb.training.search.importance import importance
from mlcycle_nb.training.search.listing import SearchList
from mlcycle_nb.training.search.panel import SearchPanel
from mlcycle_nb.training.search.records import SearchTrial, TrainingSearch, trial_id
from mlcycle_nb.training.search.service import Searches

sys.path.insert(0, str(Path(__file__).parent))

from world import make_search, score

EVIL = "<script>alert(1)</script>\x1b[31m"


@pytest.fixture
def search(context: Context) -> TrainingSearch:
    """Twelve trials: ten complete, one pruned, one failed with a hostile message."""
    made = make_search(context, trials=14)
    with context.store.transaction(actor="tester") as transaction:
        best, best_value = None, -1.0
        for number in range(12):
            params: dict[str, Any] = {
                "lr": 10 ** -(1 + number / 4),
                "width": (8, 16, 32)[number % 3],
                "depth": 1 + number % 4,
            }
            values = tuple(score(params, epoch) for epoch in range(3))
            phase = {10: "pruned", 11: "failed"}.get(number, "complete")
            trial = SearchTrial(
                id=trial_id(made.id, number), phase=phase, created_at=made.created_at, search=made.id, number=number,
                params=params, job=f"{made.id}-t{number}", tries=1, reports=values[:1] if number == 10 else values,
                value=None if number == 11 else values[0 if number == 10 else 2], ended_at=made.created_at,
                failure=Failure(kind="user", message=EVIL, line=3, source="boom()") if number == 11 else None,
            )  # fmt: skip
            transaction.insert(trial, event="trial.told")
            if phase == "complete" and values[2] > best_value:
                best, best_value = number, values[2]
        return transaction.update(
            replace(made, best=best, best_value=best_value, asked=12, ended=12), event="search.told"
        )


@pytest.fixture
def panel(context: Context, search: TrainingSearch) -> SearchPanel:
    return SearchPanel(Searches(context, None), search.id)  # type: ignore[arg-type]


def test_text_names_the_best_and_every_state(panel: SearchPanel, search: TrainingSearch) -> None:
    """Headless runs read this; nothing in it moves a terminal."""
    text = repr(panel)

    assert "12 of 14 trials: 10 complete, 1 pruned, 1 failed" in text
    assert f"score {search.best_value:.4g} in trial {search.best} (lr=" in text
    assert f"{search.best} ★" in text
    assert "importance: " in text
    assert "cell line 3: boom()" in text
    assert "\x1b" not in text


def test_html_is_inert_and_has_the_charts(panel: SearchPanel) -> None:
    """Four drawn charts; the hostile message is text."""
    html = panel.to_html()

    assert "<script>" not in html
    assert html.count("data:image/svg+xml") == 4
    assert 'aria-valuenow="86"' in html


def test_charts_show_the_same_trials(panel: SearchPanel, search: TrainingSearch) -> None:
    """The pruned curve ends where it was pruned; each axis goes from 0 to 1; drawn once while nothing changes."""
    state = panel.snapshot()
    best, curves, coordinates, shares = (spec(chart) for chart in panel.charts(state))

    points = best["layer"][1]["data"]["values"]
    assert {point["state"] for point in points} == {"best", "complete", "pruned"}
    steps = [row["value"] for row in best["layer"][0]["data"]["values"]]
    assert steps == sorted(steps)
    pruned = [row for row in curves["layer"][0]["data"]["values"] if row["state"] == "pruned"]
    assert [row["report"] for row in pruned] == [1]
    lines = coordinates["layer"][0]["data"]["values"]
    assert len(lines) == 10 * 4
    assert {row["axis"] for row in lines} == {"lr", "width", "depth", "score"}
    assert all(-1e-9 <= row["y"] <= 1 + 1e-9 for row in lines)
    assert sum(row["share"] for row in shares["data"]["values"]) == pytest.approx(1, abs=1e-3)
    assert panel.charts(panel.snapshot()) is panel.charts(state)
    assert "<svg" in to_svg(coordinates_chart(search, list(state.trials)))


def test_importance_waits_for_enough_trials_and_names_the_cause(panel: SearchPanel) -> None:
    """The score depends on the rate most of all; the same answer each time."""
    state = panel.snapshot()
    shares = importance(state.search, state.trials)

    assert max(shares, key=lambda name: shares[name]) == "lr"
    assert shares == importance(state.search, state.trials)
    assert importance(state.search, state.trials[:7]) == {}
    level = [replace(trial, value=1.0) for trial in state.trials]
    assert importance(state.search, level) == {}


def test_buttons(panel: SearchPanel, context: Context, search: TrainingSearch) -> None:
    """Stop while it runs; go on when it was stopped before its last trial."""
    state = panel.snapshot()
    assert [action.label for action in panel.actions(state)] == ["Stop"]
    assert panel.actions(replace(state, search=replace(search, stop_requested_at=context.clock.now()))) == ()
    stopped = replace(state, search=replace(search, phase="stopped"))
    assert [action.label for action in panel.actions(stopped)] == ["Resume"]
    assert panel.finished(stopped)
    assert panel.actions(replace(state, search=replace(search, phase="finished", ended=14))) == ()


def test_the_list(search: TrainingSearch) -> None:
    """As text and as a table."""
    assert "12 of 14" in repr(SearchList([search]))
    assert search.id in SearchList([search])._repr_html_()
    assert "no searches yet" in repr(SearchList())
