"""Anytime-valid tests: exact properties, worked examples and small simulations; benchmarks/canary.py has large ones."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats as oracle

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.stats.betting import Capital, log_binomial, log_hypergeometric, rate_lower, rate_upper
from mlcycle_nb.stats.sequential import BoundedRateTest, ErrorRateTest, LatencyTest


def run_errors(
    test: ErrorRateTest, rng: np.random.Generator, canary: float, baseline: float, requests: int
) -> tuple[ErrorRateTest, float]:
    for sent in range(10, requests + 1, 10):
        test = test.updated(
            canary_requests=10,
            canary_errors=int(rng.binomial(10, canary)),
            baseline_requests=10,
            baseline_errors=int(rng.binomial(10, baseline)),
        )
        if test.evidence().verdict is Outcome.FAILED:
            return test, sent
    return test, math.inf


class TestBetting:
    def test_the_distributions_are_scipys(self) -> None:
        low, logs = log_hypergeometric(12, 30, 9, (1.0, 2.5))
        x = np.arange(low, low + logs.shape[1])

        np.testing.assert_allclose(np.exp(logs[0]), oracle.hypergeom.pmf(x, 42, 9, 12), rtol=1e-9)
        np.testing.assert_allclose(np.exp(logs[1]), oracle.nchypergeom_fisher.pmf(x, 42, 9, 12, 2.5), rtol=1e-6)
        np.testing.assert_allclose(
            np.exp(log_binomial(7, (0.3,))[0]), oracle.binom.pmf(np.arange(8), 7, 0.3), rtol=1e-9
        )

    @pytest.mark.parametrize("wealth", [0.05, 1.0, 6.0])
    def test_the_expected_capital_under_the_null_is_what_was_there(self, wealth: float) -> None:
        """The property that everything rests on, over all outcomes of a batch, with capital above the cap recycled."""
        alpha = 0.05
        before = Capital(log_wealth=(math.log(wealth / 2), math.log(wealth / 2)))
        logs = log_binomial(60, (0.1, 0.15, 0.4))

        after = [before.bet(x, logs[0], logs[1:], alpha=alpha).e_value(alpha) for x in range(61)]

        assert float((np.exp(logs[0]) * after).sum()) == pytest.approx(wealth, rel=1e-9)
        assert max(after) == pytest.approx(1 / alpha)

    def test_below_the_border_the_expectation_is_smaller(self) -> None:
        before = Capital.start((0.5, 0.5))
        logs = log_binomial(60, (0.1, 0.15, 0.4))

        after = np.array([before.bet(x, logs[0], logs[1:], alpha=0.05).e_value(0.05) for x in range(61)])

        assert float((np.exp(log_binomial(60, (0.07,))[0]) * after).sum()) < 1

    def test_no_error_in_n_bounds_the_rate_by_about_three_over_n(self) -> None:
        upper = rate_upper(0, 1000)

        assert upper == pytest.approx((3 + math.log(2)) / 1000, rel=0.02)
        assert rate_lower(0, 1000) == 0

    @pytest.mark.parametrize(("events", "n"), [(1, 10), (30, 100), (10, 10)])
    def test_anytime_bounds_are_wider_than_exact_ones(self, events: int, n: int) -> None:
        exact = oracle.binomtest(events, n).proportion_ci(0.95, method="exact")

        assert rate_upper(events, n) >= exact.high - 1e-9
        assert rate_lower(events, n) <= exact.low + 1e-9

    def test_without_data_nothing_is_excluded(self) -> None:
        assert (rate_lower(0, 0), rate_upper(0, 0)) == (0.0, 1.0)

    def test_the_band_holds_at_all_times(self) -> None:
        """200 streams, looked at after each of 300 requests: a stated 5 % may ever be wrong; 3 sigma above is 19."""
        rng = np.random.default_rng(17)
        wrong = 0
        for _ in range(200):
            total = np.cumsum(rng.random(300) < 0.2)
            wrong += any(rate_upper(int(total[n - 1]), n) < 0.2 for n in range(5, 301, 5))

        assert wrong <= 19


class TestErrorRate:
    def test_healthy_canaries_are_seldom_failed(self) -> None:
        """100 rollouts, looked at 200 times each; 5 % stated, 3 sigma above is 11."""
        rng = np.random.default_rng(1)
        failed = sum(math.isfinite(run_errors(ErrorRateTest(), rng, 0.01, 0.01, 2000)[1]) for _ in range(100))

        assert failed <= 11

    def test_one_to_five_percent_is_always_found_soon(self) -> None:
        rng = np.random.default_rng(2)
        found = [run_errors(ErrorRateTest(), rng, 0.05, 0.01, 3000)[1] for _ in range(60)]

        assert all(math.isfinite(sent) for sent in found)
        assert np.median(found) <= 260  # 210 in the large simulation; 60 rollouts leave this much room

    def test_one_large_batch_decides_like_a_fixed_test(self) -> None:
        """25 of 500 against 5 of 500: Fisher's one-sided p-value is 0.0001."""
        test = ErrorRateTest().updated(canary_requests=500, canary_errors=25, baseline_requests=500, baseline_errors=5)

        assert test.evidence().verdict is Outcome.FAILED
        assert test.evidence().e_value == pytest.approx(20)

    def test_requests_one_by_one_count_too(self) -> None:
        test = ErrorRateTest()
        for number in range(200):
            test = test.updated(
                canary_requests=1, canary_errors=int(number % 4 == 0), baseline_requests=0, baseline_errors=0
            )
            test = test.updated(canary_requests=0, canary_errors=0, baseline_requests=1, baseline_errors=0)

        assert test.evidence().verdict is Outcome.FAILED

    def test_no_traffic_is_inconclusive(self) -> None:
        evidence = ErrorRateTest().evidence()

        assert evidence.verdict is Outcome.INCONCLUSIVE
        assert evidence.reason == "waiting for requests: 0/100"
        assert evidence.e_value == 1

    def test_no_baseline_is_inconclusive(self) -> None:
        test = ErrorRateTest().updated(canary_requests=5000, canary_errors=0, baseline_requests=0, baseline_errors=0)

        assert test.evidence().verdict is Outcome.INCONCLUSIVE

    def test_passing_needs_the_bound_and_not_the_estimate(self) -> None:
        few = ErrorRateTest().updated(canary_requests=120, canary_errors=0, baseline_requests=120, baseline_errors=0)
        many = few.updated(canary_requests=400, canary_errors=0, baseline_requests=400, baseline_errors=0)

        assert few.evidence().verdict is Outcome.INCONCLUSIVE
        assert many.evidence().verdict is Outcome.PASSED

    def test_a_failure_stays(self) -> None:
        test = ErrorRateTest().updated(canary_requests=500, canary_errors=40, baseline_requests=500, baseline_errors=5)
        test = test.updated(canary_requests=50_000, canary_errors=0, baseline_requests=50_000, baseline_errors=500)

        assert test.evidence().verdict is Outcome.FAILED

    def test_a_tolerated_ratio_is_tolerated(self) -> None:
        batch = {"canary_requests": 5000, "canary_errors": 90, "baseline_requests": 5000, "baseline_errors": 50}

        assert ErrorRateTest().updated(**batch).evidence().verdict is Outcome.FAILED
        assert ErrorRateTest(tolerated_ratio=2.0).updated(**batch).evidence().verdict is not Outcome.FAILED

    def test_the_state_survives_json(self) -> None:
        import cattrs

        test = ErrorRateTest().updated(canary_requests=130, canary_errors=2, baseline_requests=7, baseline_errors=0)

        assert cattrs.structure(json.loads(json.dumps(asdict(test))), ErrorRateTest) == test

    @pytest.mark.parametrize(
        "change",
        [
            {"minimum_requests": 0},
            {"block": 0},
            {"alpha": 0},
            {"tolerated_ratio": 0.5},
            {"tolerated_increase": float("nan")},
        ],
    )
    def test_settings_that_would_judge_on_no_data_are_refused(self, change: dict[str, float]) -> None:
        with pytest.raises(InvalidInput):
            ErrorRateTest(**change)  # type: ignore[arg-type]

    def test_more_errors_than_requests_are_refused(self) -> None:
        with pytest.raises(InvalidInput, match="canary"):
            ErrorRateTest().updated(canary_requests=1, canary_errors=2, baseline_requests=0, baseline_errors=0)


class TestLatency:
    def run(self, slowdown: float, requests: int, seed: int, ratio: int = 1) -> tuple[LatencyTest, float]:
        rng = np.random.default_rng(seed)
        test = LatencyTest()
        for sent in range(10, requests + 1, 10):
            test = test.updated(
                canary_ms=(1 + slowdown) * rng.lognormal(2, 0.5, 10), baseline_ms=rng.lognormal(2, 0.5, 10 * ratio)
            )
            if test.evidence().verdict is Outcome.FAILED:
                return test, sent
        return test, math.inf

    def test_equal_latency_is_seldom_failed(self) -> None:
        assert sum(math.isfinite(self.run(0.0, 1000, seed)[1]) for seed in range(100)) <= 11

    def test_a_fifth_slower_is_found(self) -> None:
        found = [self.run(0.2, 3000, seed)[1] for seed in range(40)]

        assert all(math.isfinite(sent) for sent in found)
        assert np.median(found) <= 250

    def test_equal_latency_passes_in_time(self) -> None:
        test, sent = self.run(0.0, 1500, seed=3)

        assert math.isinf(sent)
        assert test.evidence().verdict is Outcome.PASSED

    def test_equal_constant_latencies_never_fail(self) -> None:
        test = LatencyTest().updated(canary_ms=[5.0] * 400, baseline_ms=[5.0] * 400)

        assert test.evidence().verdict is not Outcome.FAILED

    def test_no_baseline_is_inconclusive_and_memory_is_bounded(self) -> None:
        test = LatencyTest().updated(canary_ms=np.ones(5000), baseline_ms=[])

        assert test.evidence().verdict is Outcome.INCONCLUSIVE
        assert len(test.waiting_canary) == 1000

    def test_a_latency_that_is_not_a_number_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match=r"canary_ms\[0\]"):
            LatencyTest().updated(canary_ms=[float("nan")], baseline_ms=[])

    def test_the_state_is_json(self) -> None:
        test = LatencyTest().updated(canary_ms=[1.0, 2.0], baseline_ms=[3.0])

        assert json.loads(json.dumps(asdict(test)))["waiting_canary"] == [1.0, 2.0]


class TestDisagreement:
    def test_permuted_labels_are_found_at_once(self) -> None:
        test = BoundedRateTest(bound=0.10).updated(requests=30, events=27)

        assert test.evidence().verdict is Outcome.FAILED

    def test_the_tolerated_rate_is_seldom_failed(self) -> None:
        rng = np.random.default_rng(9)
        failed = 0
        for _ in range(150):
            test = BoundedRateTest(bound=0.10)
            for _ in range(100):
                test = test.updated(requests=10, events=int(rng.binomial(10, 0.10)))
            failed += test.evidence().verdict is Outcome.FAILED

        assert failed <= 15

    def test_a_low_rate_passes_only_with_enough_requests(self) -> None:
        few = BoundedRateTest(bound=0.10, minimum_requests=100).updated(requests=60, events=0)
        many = few.updated(requests=200, events=5)

        assert few.evidence().reason == "waiting for requests: 60/100"
        assert few.evidence().verdict is Outcome.INCONCLUSIVE
        assert many.evidence().verdict is Outcome.PASSED

    def test_near_the_bound_is_inconclusive(self) -> None:
        assert BoundedRateTest(bound=0.10).updated(requests=300, events=28).evidence().verdict is Outcome.INCONCLUSIVE

    @pytest.mark.parametrize("bound", [0.0, 1.0, float("nan"), True])
    def test_a_bound_that_is_no_rate_is_refused(self, bound: float) -> None:
        with pytest.raises(InvalidInput):
            BoundedRateTest(bound=bound)
