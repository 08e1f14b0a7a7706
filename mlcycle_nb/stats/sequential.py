"""Tests of a rollout that may be looked at after every request, and still keep their error rate.

Each test is a small frozen record: ``test = test.updated(...)``, then ``test.evidence()``. It can be stored as
JSON and continued by another process. ``failed`` means that the evidence reached ``1 / alpha``: for a healthy
canary that ever happens with probability at most ``alpha``, whenever and however often one looks. ``passed`` must be
proven too: enough requests *and* a bound, valid at all times, on the good side. All else is ``inconclusive``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.stats._arrays import finite_vector, probability
from mlcycle_nb.stats.betting import (
    Capital,
    log_binomial,
    log_hypergeometric,
    rate_lower,
    rate_upper,
)

EVEN_START = Capital.start((0.5, 0.5))
"""Half of the capital bets on a small effect, half on a large one."""

REMEMBERED_LATENCIES = 1000
"""Latencies of one side kept while the other side has sent too few to compare with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known so far.

    ``e_value`` is the evidence against the canary, from 0 to ``1 / alpha``; ``estimate`` with ``low`` and ``high`` is
    the quantity judged, with a band that holds at all times; ``requests`` counts the canary's.
    """

    verdict: Outcome
    e_value: float
    reason: str
    requests: int
    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRateTest:
    """Is the canary's error rate above the baseline's?

    Requests of both sides in one batch are compared given the number of errors among them, so the base rate, and
    any change of it over time, drops out. A batch is used when each side has at least `block` requests.

    Parameters
    ----------
    alpha : float
        Largest probability to fail a healthy canary over the whole rollout; also the error of ``passed``.
    tolerated_ratio : float
        Odds of an error on the canary relative to the baseline up to which it counts as healthy.
    tolerated_increase : float
        To pass, the canary's rate must be shown to be less than this above the baseline's (0.01 is one point).
    minimum_requests : int
        Canary requests needed to pass.
    """

    alpha: float = 0.05
    tolerated_ratio: float = 1.0
    tolerated_increase: float = 0.02
    minimum_requests: int = 100
    block: int = 10
    capital: Capital = EVEN_START
    canary_requests: int = 0
    canary_errors: int = 0
    baseline_requests: int = 0
    baseline_errors: int = 0
    waiting: tuple[int, int, int, int] = (0, 0, 0, 0)

    def __post_init__(self) -> None:
        probability(self.alpha, what="alpha")
        probability(self.tolerated_increase, what="tolerated_increase")
        if not 1.0 <= self.tolerated_ratio < float("inf"):
            raise InvalidInput("tolerated_ratio must be at least 1", value=self.tolerated_ratio)
        _at_least_one(self.minimum_requests, "minimum_requests")
        _at_least_one(self.block, "block")

    def updated(
        self, *, canary_requests: int, canary_errors: int, baseline_requests: int, baseline_errors: int
    ) -> ErrorRateTest:
        """Return the test after one more batch of requests."""
        _check_counts(canary_errors, canary_requests, "canary")
        _check_counts(baseline_errors, baseline_requests, "baseline")
        new = (canary_requests, canary_errors, baseline_requests, baseline_errors)
        waiting = tuple(old + more for old, more in zip(self.waiting, new, strict=True))
        n_canary, x_canary, n_baseline, x_baseline = waiting
        capital = self.capital
        # Whether a batch is used depends on the numbers of requests only, never on their errors.
        if min(n_canary, n_baseline) >= self.block:
            odds = self.tolerated_ratio
            low, logs = log_hypergeometric(n_canary, n_baseline, x_canary + x_baseline, (odds, odds * 1.8, odds * 5.0))
            capital = capital.bet(x_canary - low, logs[0], logs[1:], alpha=self.alpha)
            n_canary = x_canary = n_baseline = x_baseline = 0
        return replace(
            self,
            capital=capital,
            canary_requests=self.canary_requests + canary_requests,
            canary_errors=self.canary_errors + canary_errors,
            baseline_requests=self.baseline_requests + baseline_requests,
            baseline_errors=self.baseline_errors + baseline_errors,
            waiting=(n_canary, x_canary, n_baseline, x_baseline),
        )

    def evidence(self) -> Evidence:
        """Judge what has been seen; estimate, low and high are of the increase of the error rate."""
        canary = _band(self.canary_errors, self.canary_requests, self.alpha / 2)
        baseline = _band(self.baseline_errors, self.baseline_requests, self.alpha / 2)
        increase = canary[0] - baseline[0]
        low, high = canary[1] - baseline[2], canary[2] - baseline[1]
        rates = f"{canary[0]:.2%} of {self.canary_requests} against {baseline[0]:.2%} of {self.baseline_requests}"
        if self.capital.reached:
            verdict, reason = Outcome.FAILED, f"error rate {rates}: higher than the baseline's"
        elif self.canary_requests < self.minimum_requests:
            verdict = Outcome.INCONCLUSIVE
            reason = f"waiting for requests: {self.canary_requests}/{self.minimum_requests}"
        elif self.baseline_requests < self.block:
            verdict, reason = Outcome.INCONCLUSIVE, f"the baseline answered only {self.baseline_requests} requests"
        elif high <= self.tolerated_increase:
            verdict = Outcome.PASSED
            reason = f"error rate {rates}: increase of at most {high:.2%}, tolerated {self.tolerated_increase:.2%}"
        else:
            verdict = Outcome.INCONCLUSIVE
            reason = f"error rate {rates}: increase may be up to {high:.2%}, tolerated {self.tolerated_increase:.2%}"
        return _evidence(verdict, self.capital, self.alpha, reason, self.canary_requests, increase, low, high)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTest:
    """Is the canary slower than the baseline?

    In each batch the sign of every latency against the common median is counted (Mood's median test), with the
    canary's latencies divided by what is tolerated. Signs make it indifferent to outliers and to slow times of day
    that hit both sides.

    Parameters
    ----------
    tolerated_slowdown : float
        A canary slower by up to this share is healthy (0.05: 5 %).
    unacceptable_slowdown : float
        To pass, a slow-down by this share must be ruled out.
    """

    alpha: float = 0.05
    tolerated_slowdown: float = 0.0
    unacceptable_slowdown: float = 0.25
    minimum_requests: int = 100
    block: int = 20
    slower: Capital = EVEN_START
    acceptable: Capital = EVEN_START
    canary_requests: int = 0
    baseline_requests: int = 0
    canary_above: int = 0
    canary_judged: int = 0
    waiting_canary: tuple[float, ...] = ()
    waiting_baseline: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        probability(self.alpha, what="alpha")
        if not 0.0 <= self.tolerated_slowdown < self.unacceptable_slowdown < float("inf"):
            raise InvalidInput(
                "slow-downs must satisfy 0 <= tolerated < unacceptable",
                value=(self.tolerated_slowdown, self.unacceptable_slowdown),
            )
        _at_least_one(self.minimum_requests, "minimum_requests")
        _at_least_one(self.block, "block")

    def updated(self, *, canary_ms: npt.ArrayLike, baseline_ms: npt.ArrayLike) -> LatencyTest:
        """Return the test after one more batch of latencies, in milliseconds."""
        canary = finite_vector(canary_ms, what="canary_ms", minimum=0)
        baseline = finite_vector(baseline_ms, what="baseline_ms", minimum=0)
        test = replace(
            self,
            canary_requests=self.canary_requests + len(canary),
            baseline_requests=self.baseline_requests + len(baseline),
        )
        canary = np.concatenate([self.waiting_canary, canary])
        baseline = np.concatenate([self.waiting_baseline, baseline])
        if min(len(canary), len(baseline)) < self.block:
            return replace(
                test,
                waiting_canary=tuple(canary[-REMEMBERED_LATENCIES:].tolist()),
                waiting_baseline=tuple(baseline[-REMEMBERED_LATENCIES:].tolist()),
            )
        slower = _bet_on_slower(self.slower, canary / (1 + self.tolerated_slowdown), baseline, self.alpha)
        acceptable = _bet_on_slower(self.acceptable, baseline, canary / (1 + self.unacceptable_slowdown), self.alpha)
        return replace(
            test,
            slower=slower,
            acceptable=acceptable,
            canary_above=self.canary_above + int((canary > np.median(baseline)).sum()),
            canary_judged=self.canary_judged + len(canary),
            waiting_canary=(),
            waiting_baseline=(),
        )

    def evidence(self) -> Evidence:
        """Judge what has been seen; the estimate is the share of canary requests above the baseline's median."""
        share, low, high = _band(self.canary_above, self.canary_judged, self.alpha / 2)
        above = f"{share:.0%} of {self.canary_judged} requests were slower than the baseline's median (50% is equal)"
        if self.slower.reached:
            verdict, reason = Outcome.FAILED, f"{above}: slower by more than {self.tolerated_slowdown:.0%}"
        elif self.canary_requests < self.minimum_requests:
            verdict = Outcome.INCONCLUSIVE
            reason = f"waiting for requests: {self.canary_requests}/{self.minimum_requests}"
        elif self.acceptable.reached:
            verdict, reason = Outcome.PASSED, f"{above}: slower by {self.unacceptable_slowdown:.0%} is ruled out"
        else:
            verdict = Outcome.INCONCLUSIVE
            reason = f"{above}: slower by {self.unacceptable_slowdown:.0%} is not ruled out"
        return _evidence(verdict, self.slower, self.alpha, reason, self.canary_requests, share, low, high)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundedRateTest:
    """Is a rate above a fixed bound? Such as the disagreement of two versions on mirrored requests.

    Parameters
    ----------
    bound : float
        The tolerated rate, strictly between 0 and 1.
    what : str
        Word for the rate in reasons.
    """

    bound: float = 0.10
    alpha: float = 0.05
    minimum_requests: int = 100
    what: str = "disagreement"
    capital: Capital = EVEN_START
    requests: int = 0
    events: int = 0

    def __post_init__(self) -> None:
        probability(self.bound, what="bound")
        probability(self.alpha, what="alpha")
        _at_least_one(self.minimum_requests, "minimum_requests")

    def updated(self, *, requests: int, events: int) -> BoundedRateTest:
        """Return the test after `requests` more, of which `events` count against the canary."""
        _check_counts(events, requests, self.what)
        capital = self.capital
        if requests:
            rates = (self.bound, *(_with_odds(self.bound, odds) for odds in (1.6, 5.0)))
            logs = log_binomial(requests, rates)
            capital = capital.bet(events, logs[0], logs[1:], alpha=self.alpha)
        return replace(self, capital=capital, requests=self.requests + requests, events=self.events + events)

    def evidence(self) -> Evidence:
        """Judge what has been seen; the estimate is the rate."""
        rate, low, high = _band(self.events, self.requests, self.alpha)
        seen = f"{self.what} {rate:.1%} of {self.requests} requests"
        if self.capital.reached:
            verdict, reason = Outcome.FAILED, f"{seen}: above the tolerated {self.bound:.1%}"
        elif self.requests < self.minimum_requests:
            verdict, reason = Outcome.INCONCLUSIVE, f"waiting for requests: {self.requests}/{self.minimum_requests}"
        elif high <= self.bound:
            verdict, reason = Outcome.PASSED, f"{seen}: at most {high:.1%}, tolerated {self.bound:.1%}"
        else:
            verdict, reason = Outcome.INCONCLUSIVE, f"{seen}: may be up to {high:.1%}, tolerated {self.bound:.1%}"
        return _evidence(verdict, self.capital, self.alpha, reason, self.requests, rate, low, high)


def _bet_on_slower(capital: Capital, suspect: npt.ArrayLike, other: npt.ArrayLike, alpha: float) -> Capital:
    first, second = np.asarray(suspect, dtype=np.float64), np.asarray(other, dtype=np.float64)
    middle = float(np.median(np.concatenate([first, second])))
    above_first, above_second = int((first > middle).sum()), int((second > middle).sum())
    low, logs = log_hypergeometric(len(first), len(second), above_first + above_second, (1.0, 1.5, 2.5))
    return capital.bet(above_first - low, logs[0], logs[1:], alpha=alpha)


def _with_odds(rate: float, ratio: float) -> float:
    odds = rate / (1 - rate) * ratio
    return odds / (1 + odds)


def _band(events: int, n: int, alpha: float) -> tuple[float, float, float]:
    rate = events / n if n else float("nan")
    return rate, rate_lower(events, n, alpha=alpha), rate_upper(events, n, alpha=alpha)


def _evidence(
    verdict: Outcome,
    capital: Capital,
    alpha: float,
    reason: str,
    requests: int,
    estimate: float,
    low: float,
    high: float,
) -> Evidence:
    return Evidence(
        verdict=verdict,
        e_value=capital.e_value(alpha),
        reason=reason,
        requests=requests,
        estimate=estimate,
        low=low,
        high=high,
    )


def _check_counts(events: int, requests: int, what: str) -> None:
    if not 0 <= events <= requests:
        raise InvalidInput("events must lie in 0..requests", value=(events, requests), where=what)


def _at_least_one(value: int, what: str) -> None:
    if isinstance(value, bool) or value < 1:
        raise InvalidInput(f"{what} must be at least 1", value=value, remedy="0 would judge on no data")
