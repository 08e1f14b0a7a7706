"""Which runs are shown, in which order, and how they differ."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest

from mlcycle_nb.development.charts import metric_curves, parallel_coordinates
from mlcycle_nb.development.compare import RunComparison
from mlcycle_nb.development.panel import ComparisonPanel, RunsPanel
from mlcycle_nb.development.records import MetricRow, Run
from mlcycle_nb.development.run_filter import ordered, parse_field, parse_where
from mlcycle_nb.development.service import ModelDevelopmentManager
from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.notebook.charts import spec

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run(name: str, *, accuracy: float | None = None, **params: str) -> Run:
    metrics = {} if accuracy is None else {"val_accuracy": accuracy}
    return Run(
        id=name * 32, name=name, experiment="e", status="finished", started_at=NOW, parameters=params,
        metrics=metrics, tags={"team": "vision one"},
    )  # fmt: skip


RUNS = [
    run("a", accuracy=0.91, lr="0.1"),
    run("b", accuracy=0.95, lr="0.01"),
    run("c", accuracy=math.nan, lr="1e-1"),
    run("d", lr="high"),
]


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("metrics.val_accuracy > 0.9", "ab"),
        ("metrics.val_accuracy>=0.95", "b"),
        ("metrics.val_accuracy > 0.9 and params.lr = 0.1", "a"),
        ("params.lr = 0.1", "ac"),  # as numbers
        ("params.lr = high", "d"),
        ("params.lr != 0.1 AND status = finished", "bd"),
        ("tags.team = 'vision one' and name = a", "a"),
        ('metrics."val_accuracy" < 0.95', "a"),
        ("seconds > 0", ""),
    ],
)
def test_conditions(where: str, names: str) -> None:
    conditions = parse_where(where)

    assert "".join(one.name for one in RUNS if all(condition.holds(one) for condition in conditions)) == names


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("", "it is empty"),
        ("metrics.x >", "a name, an operator and a value"),
        ("> 3", "a name, an operator and a value"),
        ("metrics.x > 1 or metrics.y > 2", "joined by 'and'"),
        ("metrics.x > much", "metrics.x is compared with a number"),
        ("params.x < big", "compared with a number"),
        ("metric.x > 1", "did you mean 'metrics'"),
        ("statu = finished", "did you mean 'status'"),
        ("metrics.x > 'unclosed", "column"),
    ],
)
def test_conditions_that_cannot_be_read(where: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        parse_where(where)
    assert "\n" not in str(caught.value)


def test_order() -> None:
    """The greatest first, those without a number last whichever way."""
    field = parse_field("metrics.val_accuracy", where="--sort")

    assert "".join(r.name for r in ordered(RUNS, field, ascending=False)) == "bacd"
    assert "".join(r.name for r in ordered(RUNS, field, ascending=True)) == "abcd"


@pytest.fixture
def logged(development: ModelDevelopmentManager) -> ModelDevelopmentManager:
    for number, cell in ((1, "x = 1\nfit(x)\nsave()"), (2, "x = 2\nfit(x)\nsave()"), (3, "x = 1\nfit(x)\nsave()")):
        data = {"rows": [number % 2], "same": [0]}
        with development.start_run(run_name=f"r{number}", cell=cell, data=data, seeds={"numpy": number}) as active:
            active.log_hyperparameters({"lr": number / 10, "kind": "same"})
            for step in range(3):
                active.log_metrics({"loss": number / (step + 1)})
    return development


class TestRuns:
    def test_filtered_sorted_and_limited(self, logged: ModelDevelopmentManager) -> None:
        found = logged.runs(where="metrics.loss < 0.9", sort="params.lr")
        assert [one.name for one in found] == ["r2", "r1"]
        assert [one.name for one in logged.runs(sort="metrics.loss", ascending=True, limit=1)] == ["r1"]

    def test_a_misspelt_metric_is_no_empty_answer(self, logged: ModelDevelopmentManager) -> None:
        with pytest.raises(InvalidInput, match=r"none of 3 runs has metrics\.los .* did you mean 'loss'"):
            logged.runs(where="metrics.los < 1")
        with pytest.raises(InvalidInput, match="--sort"):
            logged.runs(sort="params.learning_rate")

    def test_as_a_frame(self, logged: ModelDevelopmentManager) -> None:
        frame = RunsPanel(logged, where="metrics.loss < 0.9", sort="metrics.loss").to_frame()

        assert frame["run"].tolist() == ["r2", "r1"]
        assert frame["metrics.loss"].round(3).tolist() == [0.667, 0.333]
        assert frame["params.lr"].tolist() == ["0.2", "0.1"]
        assert list(RunsPanel(logged, where="name = nobody").to_frame().columns)[:2] == ["run", "id"]
        assert "none fits" in repr(RunsPanel(logged, where="name = nobody"))


class TestCompare:
    def test_data_seeds_and_cells(self, logged: ModelDevelopmentManager) -> None:
        found = logged.compare(["r1", "r2"])
        assert found.origin is not None
        rows = {row[:2]: row[2:] for row in found.origin.rows()}

        assert found.differing == ("lr",)
        assert ("data", "rows") in rows
        assert ("data", "same") not in rows
        assert rows["seed", "numpy"] == ("1", "2")
        ((label, diff),) = found.origin.cell_diffs()
        assert label == "r2"
        assert diff.split("\n")[:2] == ["--- r1", "+++ r2"]
        assert {"-x = 1", "+x = 2", " fit(x)"} <= set(diff.split("\n"))
        assert found.origin.packages() == []
        assert logged.compare(["r1", "r3"]).origin.cell_diffs() == []  # type: ignore[union-attr]

    def test_packages_that_differ(self, logged: ModelDevelopmentManager) -> None:
        from dataclasses import replace

        from mlcycle_nb.development.diffs import OriginComparison

        one = logged.provenance(logged.run("r1").id)
        other = replace(one, packages=(*(p for p in one.packages if not p.startswith("numpy==")), "zzz==1.0"))
        rows = OriginComparison(("r1", "r2", "r3"), (one, other, None)).packages()

        assert [row[1] for row in rows if row[2] != row[3]] == ["numpy", "zzz"]
        assert {row[4] for row in rows} == {"not recorded"}

    def test_versions_stand_for_their_runs(self, logged: ModelDevelopmentManager, package: Any) -> None:
        for name in ("r1", "r2"):
            logged.register_model("digits", package, run_id=logged.run(name).id)
        logged.register_model("digits", package)
        found = logged.compare(["digits/1", "digits/2", "r3"])

        assert list(found.labels().values()) == ["digits/1", "digits/2", "r3"]
        with pytest.raises(InvalidInput, match="digits/3 was registered without a run"):
            logged.compare(["digits/1", "digits/3"])
        with pytest.raises(InvalidInput, match="two different runs"):
            logged.compare(["digits/1", "r1"])

    def test_the_panel_shows_it(self, logged: ModelDevelopmentManager) -> None:
        panel = ComparisonPanel(logged, ["r1", "r2"])
        state = panel.snapshot()

        assert "+x = 2" in panel.text(state)
        assert "<details>" in panel.html(state)
        titles = [spec(chart)["title"] for chart in panel.charts(state)]
        assert titles == ["loss", "parameters and metrics"]


class TestCharts:
    def comparison(self, count: int) -> RunComparison:
        runs = tuple(run(chr(97 + n), accuracy=0.5 + n / 100, lr=str(n % 3), kind="xy"[n % 2]) for n in range(count))
        curves = {
            (one.id, "val_accuracy"): [
                MetricRow(key="val_accuracy", value=value, step=step, time=NOW)
                for step, value in enumerate((0.1, math.nan, one.metrics["val_accuracy"]))
            ]
            for one in runs
        }
        return RunComparison(runs, curves)

    def test_curves_over_steps(self) -> None:
        chart = spec(metric_curves(self.comparison(2), "val_accuracy"))

        assert [(v["run"], v["step"], v["value"]) for v in chart["data"]["values"]] == [
            ("a", 0, 0.1),
            ("a", 2, 0.5),
            ("b", 0, 0.1),
            ("b", 2, 0.51),
        ]  # NaN is no point
        assert chart["encoding"]["color"]["field"] == "run"

    def test_parallel_coordinates(self) -> None:
        drawn = spec(parallel_coordinates(self.comparison(3)))
        lines, marks = drawn["layer"]
        places = {(v["run"], v["axis"]): v["place"] for v in lines["data"]["values"]}

        assert (places["a", "lr"], places["c", "lr"]) == (0.0, 1.0)
        assert (places["a", "kind"], places["b", "kind"]) == (0.0, 1.0)
        assert places["b", "val_accuracy"] == pytest.approx(0.5)
        assert lines["encoding"]["x"]["sort"] == ["kind", "lr", "val_accuracy"]
        ends = {(v["axis"], v["place"]): v["value"] for v in marks["data"]["values"]}
        assert ends["val_accuracy", 0.0] == "0.5"
        assert ends["val_accuracy", 1.0] == "0.52"

    def test_many_runs_are_coloured_by_the_last_metric(self) -> None:
        lines = spec(parallel_coordinates(self.comparison(20)))["layer"][0]

        assert lines["encoding"]["color"]["field"] == "last"
        assert {v["last"] for v in lines["data"]["values"] if v["run"] == "t"} == {1.0}
