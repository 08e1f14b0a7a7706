"""Intervals, against scipy and published values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as oracle

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.stats.bootstrap import (
    Interval,
    bootstrap,
    bootstrap_counts,
    mean_interval,
    observations_needed,
    paired_difference,
    wilson,
)


def mean(values: np.ndarray) -> float:
    return float(values.mean())


class TestWilson:
    @pytest.mark.parametrize(("successes", "n"), [(0, 10), (5, 10), (10, 10), (81, 263), (99, 100)])
    def test_it_agrees_with_scipy(self, successes: int, n: int) -> None:
        expected = oracle.binomtest(successes, n).proportion_ci(0.95, method="wilson")

        interval = wilson(successes, n)

        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)

    def test_the_published_example(self) -> None:
        """Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263 gives 0.2553 to 0.3662."""
        interval = wilson(81, 263)

        assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)

    def test_all_right_is_not_certainty(self) -> None:
        assert wilson(20, 20).low < 0.85

    @pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
    def test_impossible_counts_are_refused(self, successes: int, n: int) -> None:
        with pytest.raises(InvalidInput):
            wilson(successes, n)


class TestBootstrap:
    @pytest.mark.parametrize(("ours", "scipys"), [("percentile", "percentile"), ("bca", "BCa")])
    def test_it_is_near_scipy(self, ours: str, scipys: str) -> None:
        values = np.random.default_rng(4).exponential(size=150)
        expected = oracle.bootstrap((values,), np.mean, method=scipys, n_resamples=4000, rng=1).confidence_interval

        interval = bootstrap(mean, values, method=ours, resamples=4000, seed=2)

        assert interval.low == pytest.approx(expected.low, abs=0.02)
        assert interval.high == pytest.approx(expected.high, abs=0.02)

    def test_a_seed_repeats_it(self) -> None:
        values = np.arange(30.0)

        assert bootstrap(mean, values, seed=3) == bootstrap(mean, values, seed=3)
        assert bootstrap(mean, values, seed=3) != bootstrap(mean, values, seed=4)

    def test_a_resample_without_a_value_widens_the_interval(self) -> None:
        interval = bootstrap(lambda x: float("nan") if x.max() < 1 else float(x.mean()), np.array([0.0] * 9 + [1.0]))

        assert interval.low == -math.inf
        assert interval.high == math.inf
        assert not interval.finite

    def test_counts_give_the_same_interval_as_rows(self) -> None:
        rows = np.array([1.0] * 170 + [0.0] * 30)

        by_rows = bootstrap(mean, rows, resamples=4000, seed=1)
        by_counts = bootstrap_counts(lambda c: c[:, 1] / c.sum(axis=1), [30, 170], resamples=4000, seed=1)

        assert by_counts.value == by_rows.value
        assert (by_counts.low, by_counts.high) == pytest.approx((by_rows.low, by_rows.high), abs=0.01)

    def test_paired_differences_use_the_pairing(self) -> None:
        base = np.random.default_rng(8).normal(0, 10, 100)

        interval = paired_difference(mean, (base + 0.5,), (base,))

        assert (interval.low, interval.high) == pytest.approx((0.5, 0.5))

    def test_the_mean_is_covered_about_as_often_as_stated(self) -> None:
        """200 samples of 60: 95 % stated, at least 89 % seen (the bootstrap is a little short at 60)."""
        rng = np.random.default_rng(11)
        covered = 0
        for seed in range(200):
            interval = mean_interval(rng.normal(2, 1, 60), resamples=300, seed=seed)
            covered += interval.low <= 2 <= interval.high

        assert covered >= 178


class TestObservationsNeeded:
    def test_half_the_distance_needs_four_times_as_many(self) -> None:
        interval = Interval(value=0.92, low=0.88, high=0.96, confidence=0.95, n=100)

        assert observations_needed(interval, 0.90) == pytest.approx(420, abs=1)

    def test_a_number_beyond_all_data_sets_is_not_said(self) -> None:
        """Nor is it worked out: its square is no float."""
        assert observations_needed(Interval(value=0.0, low=0.0, high=1.3e154, confidence=0.95, n=100), 0.9) is None
        assert observations_needed(Interval(value=0.0, low=0.0, high=5e5, confidence=0.95, n=100), 1.0) is None

    def test_at_the_bound_no_number_is_enough(self) -> None:
        assert observations_needed(Interval(value=0.9, low=0.8, high=1.0, confidence=0.95, n=50), 0.9) is None
