"""The verdict on a window: two keys, control over columns and time, and what cannot be judged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mlcycle_nb.monitoring.judge import ALL_NUMERIC, FAMILIES, Column, judge, prepare
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.stats.multiple_testing import OnlineFdr

DETECTORS = ("ks", "chi_squared")


def streams(q: float = 0.05) -> dict[str, OnlineFdr]:
    return {family: OnlineFdr(q=q) for family in FAMILIES}


def columns(count: int, rows: int, rng: np.random.Generator) -> list[Column]:
    return [Column(f"f{i}", "data", "numeric", rng.normal(size=rows)) for i in range(count)]


def window(count: int, rows: int, rng: np.random.Generator, shifts: dict[int, float] | None = None):
    shifts = shifts or {}
    return {("data", f"f{i}"): rng.normal(shifts.get(i, 0.0), 1.0, rows) for i in range(count)}


class TestTwoKeys:
    def test_drifted_features_are_named_worst_first(self) -> None:
        rng = np.random.default_rng(0)
        prepared = prepare(columns(20, 2000, rng), DETECTORS)
        verdict, _ = judge(prepared, window(20, 500, rng, {3: 0.6, 11: 1.5}), streams(), {})

        assert verdict.outcome is Outcome.FAILED
        assert [f.name for f in verdict.findings if f.state == "drift"] == ["f11", "f3"]

    def test_a_significant_difference_below_the_effect_bound_is_no_drift(self) -> None:
        rng = np.random.default_rng(1)
        prepared = prepare(columns(1, 50_000, rng), DETECTORS)
        tiny = window(1, 50_000, rng, {0: 0.05})
        verdict, _ = judge(prepared, tiny, streams(), {})
        with_no_bound, _ = judge(prepared, tiny, streams(), {"ks": 0.0})

        assert verdict.outcome is Outcome.PASSED
        assert verdict.findings[0].p_value is not None
        assert verdict.findings[0].p_value < 1e-6
        assert with_no_bound.outcome is Outcome.FAILED

    def test_a_large_difference_that_chance_makes_is_no_drift(self) -> None:
        rng = np.random.default_rng(2)
        prepared = prepare(columns(1, 1000, rng), DETECTORS)
        verdict, _ = judge(prepared, window(1, 20, rng), streams(), {})

        assert verdict.findings[0].effect is not None
        assert verdict.findings[0].effect > 0.05
        assert verdict.outcome is Outcome.PASSED

    def test_a_quarter_of_a_standard_deviation_on_one_of_twenty_is_found(self) -> None:
        rng = np.random.default_rng(3)
        found = 0
        for _ in range(40):
            prepared = prepare(columns(20, 10_000, rng), DETECTORS)
            verdict, _ = judge(prepared, window(20, 1000, rng, {7: 0.25}), streams(), {})
            found += any(f.name == "f7" for f in verdict.findings if f.state == "drift")

        assert found >= 38


class TestFalseAlarms:
    @pytest.mark.timeout(300)
    def test_fifty_features_and_two_hundred_windows_without_drift(self) -> None:
        """At most q of all streams may ever alarm; 1 of 8 is well within what q = 0.05 gives by chance."""
        alarmed = 0
        for seed in range(8):
            rng = np.random.default_rng(100 + seed)
            prepared = prepare(columns(50, 1000, rng), DETECTORS)
            control = streams()
            for _ in range(200):
                verdict, control = judge(prepared, window(50, 100, rng), control, {})
                if verdict.outcome is Outcome.FAILED:
                    alarmed += 1
                    break

        assert alarmed <= 2

    def test_without_control_over_time_they_would_be_many(self) -> None:
        rng = np.random.default_rng(7)
        prepared = prepare(columns(50, 1000, rng), DETECTORS)
        alarms = sum(judge(prepared, window(50, 100, rng), streams(), {})[0].outcome == "failed" for _ in range(200))

        assert alarms >= 2

    def test_the_level_falls_from_window_to_window_and_survives_storage(self) -> None:
        rng = np.random.default_rng(8)
        prepared = prepare(columns(3, 500, rng), DETECTORS)
        first, control = judge(prepared, window(3, 100, rng), streams(), {})
        restored = {family: replace(state) for family, state in control.items()}
        second, _ = judge(prepared, window(3, 100, rng), restored, {})

        assert second.levels["data"] < first.levels["data"]
        assert "prediction" not in first.levels


class TestInsufficient:
    def one(self, reference, current, kind: str = "numeric"):
        prepared = prepare([Column("x", "data", kind, np.asarray(reference, dtype=float))], DETECTORS)
        verdict, control = judge(prepared, {("data", "x"): np.asarray(current, dtype=float)}, streams(), {})
        return verdict, control

    @pytest.mark.parametrize(
        ("current", "why"),
        [
            (np.full(100, np.nan), "100 of 100 values of the window are not finite"),
            (np.r_[np.nan, np.arange(99)], "1 of 100 values of the window are not finite"),
            (np.arange(3.0), "the window has 3 rows, under 20"),
            (np.empty(0), "the window has 0 rows, under 20"),
        ],
    )
    def test_bad_windows_are_inconclusive_and_never_without_drift(self, current, why: str) -> None:
        verdict, _ = self.one(np.random.default_rng(0).normal(size=500), current)

        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert verdict.findings[0].state == "insufficient"
        assert verdict.findings[0].why == why

    def test_a_constant_column_says_nothing(self) -> None:
        verdict, _ = self.one(np.zeros(500), np.zeros(100))

        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert verdict.findings[0].why == "one and the same value throughout"

    def test_one_class_throughout_says_nothing(self) -> None:
        verdict, _ = self.one(np.ones(500), np.ones(100), "categorical")

        assert verdict.findings[0].state == "insufficient"

    def test_a_column_that_got_stuck_is_drift(self) -> None:
        verdict, _ = self.one(np.random.default_rng(0).normal(size=500), np.full(100, 2.5))

        assert verdict.outcome is Outcome.FAILED

    def test_a_constant_window_that_could_be_chance_is_insufficient(self) -> None:
        reference = np.r_[np.zeros(495), np.ones(5)]
        verdict, _ = self.one(reference, np.zeros(100), "categorical")

        assert verdict.findings[0].state == "insufficient"
        assert verdict.findings[0].why == "the window holds one single value"

    def test_a_window_without_the_column_is_inconclusive_although_others_are_well(self) -> None:
        rng = np.random.default_rng(4)
        prepared = prepare(columns(3, 500, rng), DETECTORS)
        current = window(3, 100, rng)
        del current["data", "f1"]
        verdict, _ = judge(prepared, current, streams(), {})

        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert "f1" in verdict.why

    def test_a_constant_reference_column_does_not_hide_what_the_others_say(self) -> None:
        rng = np.random.default_rng(5)
        prepared = prepare([*columns(3, 500, rng), Column("blank", "data", "numeric", np.zeros(500))], DETECTORS)
        verdict, _ = judge(prepared, {**window(3, 100, rng), ("data", "blank"): np.zeros(100)}, streams(), {})

        assert verdict.outcome is Outcome.PASSED
        assert [f.name for f in verdict.findings if f.state == "insufficient"] == ["blank"]

    def test_nothing_tested_spends_nothing(self) -> None:
        _, control = self.one(np.random.default_rng(0).normal(size=500), np.full(100, np.nan))

        assert control["data"].steps == 0


def test_a_joint_detector_sees_changed_dependence_that_no_column_shows() -> None:
    pytest.importorskip("alibi_detect")
    rng = np.random.default_rng(9)
    independent = rng.normal(size=(1000, 2))
    first = rng.normal(size=400)
    dependent = np.column_stack([first, 0.95 * first + np.sqrt(1 - 0.95**2) * rng.normal(size=400)])
    reference = [Column(f"f{i}", "data", "numeric", independent[:, i]) for i in range(2)]
    prepared = prepare(reference, ("alibi_mmd", *DETECTORS))
    current = {("data", f"f{i}"): dependent[:, i] for i in range(2)} | {("joint", ALL_NUMERIC): dependent}
    verdict, _ = judge(prepared, current, streams(), {})

    assert [f.name for f in verdict.findings if f.state == "drift"] == [ALL_NUMERIC]
