"""Simulate rollouts: how often a healthy canary is rolled back, and how soon a bad one is found.

    python benchmarks/canary.py [--rollouts 500]

Each simulated rollout sends up to 5,000 requests to the canary and looks after every 10 of them; the baseline gets
the same number, or 19 times as many (a canary at 5 %).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np

from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.stats.sequential import BoundedRateTest, ErrorRateTest, LatencyTest

REQUESTS = 5000
STEP = 10


def found_after(look: Callable[[], Outcome], requests: int) -> float:
    """Return the canary requests after which `look` first says failed; infinity when it never does."""
    for sent in range(STEP, requests + 1, STEP):
        if look() is Outcome.FAILED:
            return sent
    return math.inf


def errors(rng: np.random.Generator, canary: float, baseline: float, ratio: int, requests: int) -> float:
    test = ErrorRateTest()

    def look() -> Outcome:
        nonlocal test
        test = test.updated(
            canary_requests=STEP,
            canary_errors=int(rng.binomial(STEP, canary)),
            baseline_requests=STEP * ratio,
            baseline_errors=int(rng.binomial(STEP * ratio, baseline)),
        )
        return Outcome.FAILED if test.capital.reached else Outcome.INCONCLUSIVE

    return found_after(look, requests)


def latency(rng: np.random.Generator, slowdown: float, sigma: float, ratio: int, requests: int) -> float:
    test = LatencyTest()

    def look() -> Outcome:
        nonlocal test
        test = test.updated(
            canary_ms=10 * (1 + slowdown) * rng.lognormal(0, sigma, STEP),
            baseline_ms=10 * rng.lognormal(0, sigma, STEP * ratio),
        )
        return Outcome.FAILED if test.slower.reached else Outcome.INCONCLUSIVE

    return found_after(look, requests)


def disagreement(rng: np.random.Generator, rate: float, requests: int) -> float:
    test = BoundedRateTest(bound=0.10)

    def look() -> Outcome:
        nonlocal test
        test = test.updated(requests=STEP, events=int(rng.binomial(STEP, rate)))
        return Outcome.FAILED if test.capital.reached else Outcome.INCONCLUSIVE

    return found_after(look, requests)


def line(name: str, found: list[float]) -> None:
    array = np.array(found)
    share = np.isfinite(array).mean()
    error = 1.96 * math.sqrt(max(share * (1 - share), 1e-9) / len(array))
    print(f"{name:58s} failed {share:.4f} +- {error:.4f}   median requests {np.median(array):7.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=500)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    runs = range(args.rollouts)
    for ratio in (1, 19):
        for canary, requests in ((0.01, REQUESTS), (0.02, REQUESTS), (0.05, 2000)):
            found = [errors(rng, canary, 0.01, ratio, requests) for _ in runs]
            line(f"errors 1% -> {canary:.0%}, baseline x{ratio}, {requests} requests", found)
    for ratio in (1, 19):
        for slowdown, requests in ((0.0, REQUESTS), (0.2, 2000)):
            for sigma in (0.3, 0.5):
                found = [latency(rng, slowdown, sigma, ratio, requests) for _ in runs]
                line(f"latency +{slowdown:.0%}, lognormal sigma {sigma}, baseline x{ratio}, {requests} requests", found)
    for rate, requests in ((0.10, REQUESTS), (0.05, REQUESTS), (0.15, REQUESTS), (0.9, 500)):
        line(
            f"disagreement {rate:.0%}, tolerated 10%, {requests} requests",
            [disagreement(rng, rate, requests) for _ in runs],
        )


if __name__ == "__main__":
    main()
