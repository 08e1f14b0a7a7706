"""The report says the same in each of its forms, and what others wrote stays inert."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.store.record import decode, encode
from mlcycle_nb.validation.charts import charts
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.panel import ValidationPanel
from mlcycle_nb.validation.records import FINISHED, RUNNING, Evidence, GateResult, Validation
from mlcycle_nb.validation.report import ValidationReport, as_html, as_markdown, as_text

DIGEST = "sha256:" + "a" * 64


def result(check: str, outcome: Outcome, **changes: object) -> GateResult:
    made = GateResult(
        check=check,
        family="performance",
        outcome=outcome,
        required=True,
        reason="because of | pipes",
        bound=">= 0.9",
        value=0.934,
        low=0.921,
        high=0.946,
        n=1234,
        next_step="" if outcome is Outcome.PASSED else "do this next",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def record() -> Validation:
    groups = {"groups": {"a": {"n": 5, "positive_rate": 0.5}, "b": {"n": 6, "positive_rate": 0.25}}, "grouping": "sex"}
    return Validation(
        id="digits-7-1",
        phase=FINISHED,
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
        model="digits",
        model_version=7,
        evidence=Evidence(package=DIGEST, data=DIGEST, gates=DIGEST, code=DIGEST),
        gates=(Gate(check="accuracy", minimum=0.9),) * 4,
        outcome=Outcome.FAILED,
        results=(
            result("accuracy", Outcome.PASSED),
            result("demographic_parity_difference", Outcome.FAILED, detail=groups),
            result("latency_p95_ms", Outcome.INCONCLUSIVE, unit="ms", required=False),
            result("f1", Outcome.ERROR, value=None, low=None, high=None, n=None, reason="<script>alert(1)</script>"),
        ),
        finished_at=datetime(2026, 1, 2, 0, 1, tzinfo=UTC),
    )


class TestForms:
    def test_counts_add_up_and_are_in_every_form(self) -> None:
        line = "outcome: failed (4 gates: 1 passed, 1 failed, 1 inconclusive, 1 error)"

        assert sum(record().counts().values()) == 4
        assert line in as_text(record())
        assert line in as_html(record())
        assert line in as_markdown(record()).replace("\\", "")

    def test_the_numbers_are_the_same(self) -> None:
        for form in (as_text(record()), as_html(record()), as_markdown(record()).replace("\\", "")):
            assert "0.934 [0.921, 0.946]" in form
            assert "1,234" in form
            assert "do this next" in form

    def test_json_has_everything_and_no_nan(self) -> None:
        tree = json.loads(ValidationReport(record()).to_json())

        assert tree["counts"] == {"passed": 1, "failed": 1, "inconclusive": 1, "error": 1, "skipped": 0}
        assert tree["results"][3]["value"] is None
        assert tree["reference"] == "digits/7"

    def test_foreign_text_is_inert(self) -> None:
        assert "<script>" not in as_html(record())
        assert "<script>" not in as_markdown(record())
        assert "because of \\| pipes" in as_markdown(record())

    def test_the_page_loads_nothing(self) -> None:
        page = ValidationReport(record()).to_html()

        assert page.count("data:image/svg+xml") == 3
        assert "http" not in page.replace("http-equiv", "")
        assert "<script" not in page

    def test_it_is_saved_by_suffix(self, tmp_path: Path) -> None:
        report = ValidationReport(record())
        for suffix in (".html", ".json", ".md", ".txt"):
            assert report.save(tmp_path / f"report{suffix}").stat().st_size > 100
        with pytest.raises(InvalidInput, match="cannot tell"):
            report.save(tmp_path / "report.pdf")
        with pytest.raises(InvalidInput, match="no such folder"):
            report.save(tmp_path / "absent" / "report.html")

    def test_the_record_survives_the_store(self) -> None:
        assert decode(Validation, encode(record()), 0) == record()


class TestPanelAndCharts:
    def test_charts_show_intervals_bounds_and_groups(self) -> None:
        drawn = [chart.to_dict() for chart in charts(record())]

        assert len(drawn) == 3  # one for each unit, one for the groups
        values = next(iter(drawn[0]["datasets"].values())) if "datasets" in drawn[0] else drawn[0]["data"]["values"]
        assert values[0]["bound"] == 0.9
        assert [row["gate"] for row in values] == ["accuracy >= 0.9", "demographic_parity_difference >= 0.9"]

    def test_a_running_validation_is_no_verdict(self) -> None:
        running = replace(record(), phase=RUNNING, results=(), outcome=Outcome.INCONCLUSIVE)
        panel = ValidationPanel(lambda: running)

        assert repr(panel) == "stage: validation, digits/7, running 4 gates"
        assert not panel.finished(running)
        assert not running.passed

    def test_the_bundle_has_text_html_and_data(self) -> None:
        bundle = ValidationReport(record())._repr_mimebundle_()

        assert {"text/plain", "text/html", "application/vnd.mlcycle.v1+json"} <= bundle.keys()
