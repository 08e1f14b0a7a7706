"""The canary panel: the same numbers in text, HTML and charts."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest
import vl_convert

from mlcycle_nb.deployment.charts import POINTS_SHOWN, series_chart, share_rows, verdict_chart, weight_rows
from mlcycle_nb.deployment.judgement import Judgement, MetricVerdict
from mlcycle_nb.deployment.panel import RolloutPanel
from mlcycle_nb.deployment.records import Rollout
from mlcycle_nb.errors import Refused
from mlcycle_nb.outcomes import Outcome


@pytest.fixture
def canary(world):
    """A canary in its first step, with traffic and a verdict."""
    world.deploy(1)
    world.settle(20)
    record = world.deploy(2, interval="1h")
    world.settle(8)
    now = world.context.clock.now()
    world.context.store.add_measurements(
        "service:production/digits",
        [
            {"time": now + timedelta(seconds=i), "kind": "traffic", "version": version, "seconds": 1.0,
             "requests": count, "errors": version - 1, "p50_ms": 1.5, "p95_ms": 2.0 + version, "p99_ms": 9.0}
            for i in range(3) for version, count in ((1, 95), (2, 5))
        ],
    )  # fmt: skip
    metric = MetricVerdict(
        name="disagreement", outcome=Outcome.INCONCLUSIVE, reason="disagreement 2.0% of 50 requests: <b>may</b> be 12%",
        requests=50, estimate=0.02, low=0.001, high=0.12,
    )  # fmt: skip
    world.context.store.observe(Rollout, record.id, judgement=Judgement(metrics=(metric,), step_requests=15))
    world.context.store.add_measurements(
        f"rollout:{record.id}",
        [{"time": now, "kind": "verdict", "name": "disagreement", "outcome": "inconclusive", "requests": 50,
          "estimate": 0.02, "low": 0.001, "high": 0.12}],
    )  # fmt: skip
    return RolloutPanel(world.deployment, record.id)


class TestFaces:
    """One state, three faces."""

    def test_text_has_weights_counts_and_reasons(self, canary):
        text = repr(canary)

        assert "canary of digits/2 to production: progressing, step 1/4" in text
        assert "15 of 100 requests at this step" in text
        assert any(line.split()[:5] == ["2", "5%", "5%", "15", "3"] for line in text.splitlines())
        assert any(line.split()[:5] == ["1", "95%", "95%", "285", "0"] for line in text.splitlines())
        assert "inconclusive" in text

    def test_html_has_the_same_numbers_and_is_inert(self, canary):
        html = canary.to_html()

        for number in ("285", "15", "95%", "step 1/4", "inconclusive"):
            assert number in html
        assert "<b>may" not in html
        assert "&lt;b&gt;may" in html
        assert html.count("data:image/svg+xml") == 4

    def test_buttons_follow_the_phase(self, world, canary):
        def labels() -> list[str]:
            return [action.label for action in canary.actions(canary.snapshot())]

        assert labels() == ["Promote", "Pause", "Abort"]
        next(a for a in canary.actions(canary.snapshot()) if a.label == "Pause").callback()
        assert labels() == ["Promote", "Resume", "Abort"]
        world.deployment.abort("digits")
        world.settle(10)
        assert labels() == []
        assert canary.finished(canary.snapshot())

    def test_what_is_stable_can_be_rolled_back(self, world, canary):
        """From its own panel, which follows the rollback; and from no other panel, however old the page is."""

        def label() -> list[str]:
            return [action.label for action in canary.actions(canary.snapshot())]

        world.deployment.promote("digits")
        world.settle(20)
        assert label() == ["Roll back"]
        assert canary.finished(canary.snapshot())
        [button] = canary.actions(canary.snapshot())
        button.callback()
        assert label() == []
        assert not canary.finished(canary.snapshot())
        world.settle(20)
        assert canary.finished(canary.snapshot())
        assert label() == []
        assert "stable: digits/1" in repr(canary)
        assert "since then: rollout production/digits/r3 is completed" in repr(canary)
        with pytest.raises(Refused, match="digits/2 is not stable in production any more"):
            button.callback()

    def test_the_service_status(self, world, canary):
        status = world.deployment.status("digits")

        assert (status.stable, status.rollback_target) == (1, None)
        assert [(r.version, r.planned, r.in_force) for r in status.revisions] == [(1, 95.0, 95.0), (2, 5.0, 5.0)]
        assert "digits in production: digits/1 is stable" in repr(status)
        assert status.to_dict()["revisions"][1]["requests"] == 15


class TestShadow:
    """A shadow has no weights to show, and rows on which it differs."""

    @pytest.fixture
    def shadow(self, world):
        world.deploy(1)
        world.settle(20)
        world.rollouts.requests = 40
        record = world.deploy(2, strategy="shadow", duration="30s", compare=800)
        world.settle(6)
        metric = MetricVerdict(name="error rate", outcome=Outcome.PASSED, reason="error rate 0%", requests=50)
        moment = "2026-01-01T00:00:00.000000Z"
        rows = [
            {"prediction_id": f"p<{number}>", "row": 0, "time": moment, "score": 0.9 - number / 100,
             "stable": 3, "new": 5, "stable_confidence": 0.9, "new_confidence": 0.8, "input": [0.5, None],
             "input_size": 64}
            for number in range(20)
        ]  # fmt: skip
        world.context.store.observe(
            Rollout, record.id, judgement=Judgement(metrics=(metric,), step_requests=40), analysis={"worst": rows}
        )
        return RolloutPanel(world.deployment, record.id)

    def test_faces_have_the_largest_disagreements(self, shadow):
        text, html = repr(shadow), shadow.to_html()

        assert "shadow of digits/2 to production: progressing" in text
        assert "40 copied requests compared; ends after 30 s or 800 requests" in text
        for face in (text, html):
            assert "where the two versions differ most" in face
            assert "5 (80%)" in face
            assert "0.5, n/a, … 62 more" in face
        assert "p<0>" in text
        assert "p<7>" in text
        assert "p<8>" not in text, "the panel shows a few, %disagreements all"
        assert "p&lt;0&gt;" in html
        assert "requests to digits/2: planned" not in html

    def test_its_end_says_what_may_follow(self, world, shadow):
        labels = [action.label for action in shadow.actions(shadow.snapshot())]
        assert labels == ["Promote", "Pause", "Abort"]
        world.settle(40)

        assert "compared, passed" in repr(shadow)
        assert "%promote production/digits/r2 begins a canary of it" in repr(shadow)
        assert shadow.actions(shadow.snapshot()) == ()

    def test_all_rows_are_in_the_frame(self, world, shadow):
        assert len(world.deployment.disagreements("digits").to_frame()) == 20


class TestCharts:
    """Charts hold what was measured, and no more than fits."""

    def test_planned_weights_are_a_staircase(self, world, canary):
        rows = weight_rows(canary.snapshot().rollout, world.context.clock.now())
        assert [row["weight"] for row in rows] == [0.0, 5.0, 5.0]

    def test_shares_are_counted(self, canary):
        assert [row["weight"] for row in share_rows(canary.snapshot().points, 2)] == [5.0, 5.0, 5.0]

    def test_a_long_history_stays_small(self, world):
        now = world.context.clock.now()
        points = [{"time": now + timedelta(seconds=i), "version": 1, "p95_ms": float(i)} for i in range(5000)]
        spec = series_chart(points, "p95_ms", title="latency", y_title="ms").to_dict()

        values = spec["data"]["values"]
        assert len(values) <= POINTS_SHOWN
        assert values[-1]["value"] == 4999.0

    def test_a_verdict_of_one_look_is_drawn(self, world):
        """A line needs two points; a rollout that goes back at once has one."""
        rows = [{"time": world.context.clock.now(), "name": "disagreement", "estimate": 1.0, "low": 0.6, "high": 1.0}]
        svg = vl_convert.vegalite_to_svg(json.dumps(verdict_chart(rows, "disagreement", 0.2, title="").to_dict()))

        assert len(re.findall(r'aria-roledescription="point"', svg)) == 1

    def test_nothing_but_zeros_lies_at_the_bottom(self, world):
        """Vega gives a column of zeros no scale, and draws it across the middle."""
        now = world.context.clock.now()
        points = [{"time": now + timedelta(seconds=i), "version": 1, "error_percent": 0.0} for i in range(5)]
        chart = series_chart(points, "error_percent", title="errors", y_title="% of requests", at_least=1.0)
        svg = vl_convert.vegalite_to_svg(json.dumps(chart.to_dict()))

        assert {"0.0", "1.0"} <= set(re.findall(r"<text[^>]*>([^<]*)</text>", svg))

    def test_disagreement_has_its_band_and_bound(self, canary):
        spec = canary.charts(canary.snapshot())[3].to_dict()
        text = str(spec)
        assert "0.12" in text
        assert "'bound': 0.1" in text
