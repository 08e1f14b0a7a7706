"""Canaries in virtual time: the same verdicts as live, exactly repeatable."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlcycle_nb.deployment.recorded import Recorded, answer, read_file
from mlcycle_nb.deployment.records import WHOLE
from mlcycle_nb.deployment.simulation import simulate
from mlcycle_nb.errors import InvalidInput

from .test_analysis import rollout

START = datetime(2026, 5, 1, tzinfo=UTC)


def recording(count=4000, *, gap=0.05, canary=lambda truth, rng: truth, classes=10, rows=1) -> Recorded:
    """Requests each `gap` seconds; stable is always right, the new version is what `canary` makes of it."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, classes, count * rows).astype(float)
    return Recorded(
        ids=[f"r{number}" for number in range(count) for _ in range(rows)],
        rows=np.tile(np.arange(rows), count),
        times=[START + timedelta(seconds=gap * number) for number in range(count) for _ in range(rows)],
        latencies_ms=rng.lognormal(1.5, 0.2, count * rows),
        answers={1: truth, 2: np.asarray(canary(truth, rng), dtype=float)},
        column="label",
        slowness=1.0,
    )


def run(recorded: Recorded, **policy):
    policy = {"steps": (1000, 5000, WHOLE), "interval_seconds": 20.0, "watched": ("latency",)} | policy
    begun = replace(rollout(**policy), phase="preparing", in_force_since=None, base_replicas=2)
    return simulate(begun, recorded, classes=10)


def often_wrong(truth, rng):
    return np.where(rng.random(len(truth)) < 0.5, (truth + 1) % 10, truth)


class TestVerdicts:
    """Each planted canary gets the verdict that it would get live."""

    def test_an_equal_version_completes(self):
        found = run(recording())

        assert found.outcome == "completed"
        assert [step["weight"] for step in found.to_dict()["steps"]] == [10, 50, 100]
        assert found.canary_requests < 0.4 * found.requests

    @pytest.mark.parametrize(
        ("canary", "policy", "words"),
        [
            (often_wrong, {}, "disagreement"),
            (lambda truth, rng: np.full(len(truth), 4.0), {"mirror": 0}, "prediction shift: class 4 is 100.0%"),
            (lambda truth, rng: np.where(rng.random(len(truth)) < 0.1, np.nan, truth), {}, "error rate"),
            (lambda truth, rng: np.where(np.arange(len(truth)) > 1500, (truth + 1) % 10, truth), {}, "disagreement"),
        ],
        ids=["often wrong", "constant", "not finite", "good at first"],
    )
    def test_a_bad_one_goes_back(self, canary, policy, words):
        found = run(recording(canary=canary), **policy)

        assert found.outcome == "rolled_back"
        assert words in found.record.reason
        assert found.requests < 4000

    def test_it_repeats_exactly(self):
        assert run(recording(canary=often_wrong)).to_dict() == run(recording(canary=often_wrong)).to_dict()

    def test_too_short_a_recording_decides_nothing(self):
        found = run(recording(100))

        assert found.outcome == "undecided"
        assert "the recording ended: waiting for requests" in repr(found)

    def test_slowness_is_shown_and_decides_nothing(self):
        found = run(replace(recording(), slowness=3.0))
        [latency] = [metric for metric in found.judgement.metrics if metric.name == "latency"]

        assert (latency.outcome, latency.mode, found.outcome) == ("failed", "watched", "completed")

    def test_a_night_without_requests_is_held_then_gone_on_from(self):
        recorded = recording()
        later = [time + timedelta(hours=9) * (number >= 900) for number, time in enumerate(recorded.times)]
        found = run(replace(recorded, times=later), deadline_seconds=24 * 3600.0)
        given_up = run(replace(recorded, times=later), min_requests=800)

        assert found.outcome == "completed"
        assert found.seconds > 9 * 3600
        assert given_up.outcome == "rolled_back"
        assert "still undecided at the deadline" in given_up.record.reason

    def test_rows_of_a_request_go_to_one_version(self):
        found = run(recording(1500, rows=3))

        assert found.recorded == 1500
        assert found.requests <= 1500


class TestRecordings:
    """Files that are no recordings."""

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("gone.parquet", None, "there is no such recording"),
            ("rows.csv", b"a,b", "is a .parquet or .arrow file"),
            ("torn.parquet", b"PAR1 no", "cannot be read"),
            ("torn.arrow", b"ARROW1", "cannot be read"),
        ],
    )
    def test_refused(self, tmp_path: Path, name, content, words):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidInput, match=words):
            read_file(tmp_path / name)

    def test_columns(self, tmp_path: Path):
        pq.write_table(pa.table({"time": [START], "row": [0]}), tmp_path / "r.parquet")
        with pytest.raises(InvalidInput, match="lacks prediction_id, input"):
            read_file(tmp_path / "r.parquet")

    def test_nothing(self):
        with pytest.raises(InvalidInput, match="nothing was recorded"):
            answer(pa.table({}), {})
