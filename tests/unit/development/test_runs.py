"""Runs: what is logged is what MLflow's own client reads back."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.development.active_run import FLUSH_SECONDS
from mlcycle_nb.development.records import MetricRow
from mlcycle_nb.development.service import ModelDevelopmentManager
from mlcycle_nb.errors import Conflict, InvalidInput, InvalidName, NotFound, Refused
from mlcycle_nb.store.audit import events
from mlcycle_nb.testing import FakeClock


def mlflow_client(development: ModelDevelopmentManager) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=development.tracking.uri)


class TestLogging:
    def test_mlflow_reads_back_what_was_logged(self, development: ModelDevelopmentManager, tmp_path: Path) -> None:
        """Parameters, metrics, configuration and artifacts arrive unchanged."""
        (tmp_path / "notes.txt").write_text("hello")
        development.create_experiment("digits")
        with development.start_run(run_name="first") as run:
            development.log_hyperparameters({"lr": 0.1, "optimizer": {"name": "adam", "betas": [0.9, 0.99]}})
            development.log_model_config({"layers": [64, 10]})
            for step in range(3):
                development.log_metrics({"loss": 1.0 / (step + 1)}, step=step)
            development.log_artifacts(tmp_path / "notes.txt")
            development.log_artifacts({"table.json": {"rows": 2}}, "tables")

        client = mlflow_client(development)
        stored = client.get_run(run.id)
        assert stored.info.status == "FINISHED"
        assert stored.info.run_name == "first"
        assert client.get_experiment(stored.info.experiment_id).name == "digits"
        assert stored.data.params == {
            "lr": "0.1",
            "optimizer.name": "adam",
            "optimizer.betas": "[0.9, 0.99]",
            "config.layers": "[64, 10]",
        }
        assert [(m.step, m.value) for m in client.get_metric_history(run.id, "loss")] == [
            (0, 1.0),
            (1, 0.5),
            (2, 1.0 / 3),
        ]
        assert development.tracking.artifact_files(run.id) == [
            "model_config.json",
            "notes.txt",
            "provenance.json",
            "tables/table.json",
        ]
        assert development.tracking.read_text(run.id, "tables/table.json") == '{\n "rows": 2\n}'

    def test_many_metrics_are_written_in_few_calls(
        self, development: ModelDevelopmentManager, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """1,200 values cost at most four writes, and all of them arrive."""
        run = development.start_run()
        calls: list[int] = []
        log = development.tracking.log

        def counted(run_id: str, **given: Any) -> None:
            calls.append(len(given.get("metrics", ())))
            log(run_id, **given)

        monkeypatch.setattr(development.tracking, "log", counted)
        for step in range(1200):
            run.log_metrics({"loss": float(step)}, step=step)
        run.end()

        assert sum(calls) == 1200
        assert len(calls) <= 4
        assert len(development.tracking.metric_history(run.id, "loss")) == 1200

    def test_a_metric_is_written_at_most_a_second_late(
        self, development: ModelDevelopmentManager, fake_clock: FakeClock
    ) -> None:
        run = development.start_run()
        run.log_metrics({"loss": 3.0}, step=0)
        assert mlflow_client(development).get_run(run.id).data.metrics == {}

        fake_clock.advance(timedelta(seconds=FLUSH_SECONDS))
        run.log_metrics({"loss": 2.0}, step=1)

        assert mlflow_client(development).get_run(run.id).data.metrics == {"loss": 2.0}

    def test_a_batch_written_twice_is_there_once(self, development: ModelDevelopmentManager) -> None:
        """A supervisor that was killed between writing and noting it may write again."""
        run = development.start_run(current=False)
        at = datetime(2026, 1, 1, tzinfo=UTC)
        rows = [MetricRow(key="loss", value=float(step), step=step, time=at) for step in range(5)]
        development.log_metric_batch(run.id, rows)
        development.log_metric_batch(
            run.id, [{"key": r.key, "value": r.value, "step": r.step, "time": at} for r in rows]
        )

        assert [row.value for row in development.tracking.metric_history(run.id, "loss")] == [0, 1, 2, 3, 4]

    def test_nan_is_kept_as_nan(self, development: ModelDevelopmentManager) -> None:
        with development.start_run() as run:
            run.log_metrics({"loss": float("nan")})

        assert math.isnan(development.run(run.id).metrics["loss"])

    @pytest.mark.parametrize("value", ["0.5", True, None, [1.0]])
    def test_what_is_not_a_number_is_no_metric(self, development: ModelDevelopmentManager, value: object) -> None:
        with (
            development.start_run() as run,
            pytest.raises(InvalidInput, match="metric loss is not a number"),
        ):
            run.log_metrics({"loss": value})

    @pytest.mark.parametrize("key", ["", "a\nb", "../x", "a" * 300, "ключ", 7])
    def test_bad_metric_names_are_refused(self, development: ModelDevelopmentManager, key: Any) -> None:
        run = development.start_run()
        with pytest.raises(InvalidInput, match="metric name cannot be stored"):
            run.log_metrics({key: 1.0})

    def test_a_hyperparameter_cannot_be_changed(self, development: ModelDevelopmentManager) -> None:
        run = development.start_run()
        run.log_hyperparameters({"lr": 0.1})
        run.log_hyperparameters({"lr": 0.1})
        with pytest.raises((InvalidInput, Conflict)):
            run.log_hyperparameters({"lr": 0.2})

    def test_an_oversized_hyperparameter_is_refused(self, development: ModelDevelopmentManager) -> None:
        run = development.start_run()
        with pytest.raises(InvalidInput, match="over 6000"):
            run.log_hyperparameters({"text": "x" * 6001})

    def test_a_missing_artifact_is_named(self, development: ModelDevelopmentManager, tmp_path: Path) -> None:
        run = development.start_run()
        with pytest.raises(InvalidInput, match="no such file"):
            run.log_artifacts(tmp_path / "absent")


class TestEnds:
    def test_an_exception_ends_the_run_failed(self, development: ModelDevelopmentManager) -> None:
        with pytest.raises(ZeroDivisionError), development.start_run() as run:
            _ = 1 / 0
        assert development.run(run.id).status == "failed"

    def test_an_interrupt_ends_the_run_killed(self, development: ModelDevelopmentManager) -> None:
        with pytest.raises(KeyboardInterrupt), development.start_run() as run:
            raise KeyboardInterrupt
        assert development.run(run.id).status == "killed"

    def test_an_ended_run_takes_nothing_more(self, development: ModelDevelopmentManager) -> None:
        with development.start_run() as run:
            pass
        with pytest.raises(Refused, match="has ended"):
            run.log_metrics({"loss": 1.0})

    def test_without_a_run_nothing_is_logged(self, development: ModelDevelopmentManager) -> None:
        with pytest.raises(Refused, match="no run is active"):
            development.log_metrics({"loss": 1.0})

    def test_a_run_beside_does_not_become_the_current_one(self, development: ModelDevelopmentManager) -> None:
        development.start_run(current=False)
        with pytest.raises(Refused, match="no run is active"):
            development.log_metrics({"loss": 1.0})

    def test_the_first_end_counts(self, development: ModelDevelopmentManager) -> None:
        run = development.start_run()
        development.end_run(run.id, "failed")
        assert development.end_run(run.id, "finished").status == "failed"

    def test_only_known_endings(self, development: ModelDevelopmentManager) -> None:
        run = development.start_run()
        with pytest.raises(InvalidInput, match="cannot end"):
            development.end_run(run.id, "running")

    def test_each_start_and_end_is_audited(self, development: ModelDevelopmentManager) -> None:
        with development.start_run() as run:
            pass
        told = [body["event"] for body in events(development.context.store, subject=f"run:{run.id}")]
        assert told == ["run.started", "run.ended"]


class TestFinding:
    def test_runs_are_newest_first_and_by_experiment(
        self, development: ModelDevelopmentManager, fake_clock: FakeClock
    ) -> None:
        for experiment in ("one", "two"):
            fake_clock.advance(timedelta(minutes=1))
            development.start_run(experiment).end()

        assert [run.experiment for run in development.runs()] == ["two", "one"]
        assert [run.experiment for run in development.runs("one")] == ["one"]

    def test_a_run_is_found_by_prefix_or_name(self, development: ModelDevelopmentManager) -> None:
        run = development.start_run(run_name="baseline").end()

        assert development.run(run.id[:8]).id == run.id
        assert development.run("baseline").id == run.id

    def test_an_unknown_run_is_not_found(self, development: ModelDevelopmentManager) -> None:
        with pytest.raises(NotFound, match="no run of this id"):
            development.run("feedface")
        with pytest.raises(NotFound):
            development.run("0" * 32)

    def test_an_unknown_experiment_is_not_found(self, development: ModelDevelopmentManager) -> None:
        with pytest.raises(NotFound, match="no experiment"):
            development.runs("nothing")

    @pytest.mark.parametrize("name", ["", "a/b", "../x", "Ж", "latest", "a b"])
    def test_experiment_names_follow_the_grammar(self, development: ModelDevelopmentManager, name: str) -> None:
        with pytest.raises(InvalidName):
            development.create_experiment(name)


class TestComparing:
    def test_shows_what_differs(self, development: ModelDevelopmentManager) -> None:
        ids = []
        for rate in (0.1, 0.2):
            with development.start_run(run_name=f"rate-{rate}") as run:
                run.log_hyperparameters({"lr": rate, "epochs": 3})
                for step in range(4):
                    run.log_metrics({"loss": rate * step}, step=step)
            ids.append(run.id)
        compared = development.compare(ids)

        assert compared.differing == ("lr",)
        assert compared.rows()[0] == ("parameter", "lr", "0.1", "0.2")
        assert [row.value for row in compared.curves[ids[1], "loss"]] == [0.0, 0.2, 0.4, pytest.approx(0.6)]

    def test_needs_two_runs(self, development: ModelDevelopmentManager) -> None:
        run = development.start_run()
        with pytest.raises(InvalidInput, match="two different runs"):
            development.compare([run.id, run.id])

    def test_charts_hold_the_numbers(self, development: ModelDevelopmentManager) -> None:
        from mlcycle_nb.development.charts import metric_curves, parallel_coordinates
        from mlcycle_nb.development.panel import ComparisonPanel

        ids = []
        for rate in (1.0, 3.0):
            with development.start_run(run_name=f"r{rate:.0f}") as run:
                run.log_hyperparameters({"lr": rate})
                run.log_metrics({"loss": rate}, step=0)
                run.log_metrics({"loss": float("inf")}, step=1)
            ids.append(run.id)
        compared = development.compare(ids)
        curves = metric_curves(compared, "loss").to_dict()
        parallel = parallel_coordinates(compared)
        assert parallel is not None

        assert {(v["run"], v["step"], v["value"]) for v in curves["data"]["values"]} == {("r1", 0, 1.0), ("r3", 0, 3.0)}
        places = {(v["run"], v["axis"]): v["place"] for v in parallel.to_dict()["layer"][0]["data"]["values"]}
        assert places["r1", "lr"] == 0.0
        assert places["r3", "lr"] == 1.0
        panel = ComparisonPanel(development, ids)
        assert "lr" in repr(panel)
        assert "<svg" not in panel.to_html()
        assert "data:image/svg+xml" in panel.to_html()
