"""Rules like those of other tools, on the same simulated rollouts as our tests: `benchmarks/canary.py`.

    python -m benchmarks look_alikes

Every rule looks after each 500 canary requests, ten times in a rollout, at a canary and a baseline that get the same
number of requests. Ours may look after any request; it looks after every 10.

- over 2 %, three failed checks: as Flagger's threshold metrics do it
- over 2 %, no failed check: as Argo Rollouts' ``failureLimit: 0`` does it
- Mann-Whitney on points of 50 requests, 98 %: as Kayenta compares time series
- z test of all requests so far, at each look (1.96), and with its level spent evenly over the ten looks (Bonferroni)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.canary import errors, latency

ROLLOUTS = 2000
OURS = 500
LOOKS, EACH, POINT = 10, 500, 50
SEED = 11
Points = NDArray[np.float64]
"""Shape (looks, points in a look): the mean of each point."""


def threshold(canary: Points, baseline: Points, *, failures: int) -> float:
    """Fail at the `failures`-th look with more than 2 % errors in it."""
    del baseline
    over = np.cumsum(canary.mean(axis=1) > 0.02)
    return _first(over >= failures)


def mann_whitney(canary: Points, baseline: Points) -> float:
    """Fail at the first look at which the points so far are larger, at 98 %."""
    for look in range(1, LOOKS + 1):
        test = stats.mannwhitneyu(canary[:look].ravel(), baseline[:look].ravel(), alternative="two-sided")
        larger = canary[:look].mean() > baseline[:look].mean()
        if larger and test.pvalue < 0.02:
            return look * EACH
    return math.inf


def z_test(canary: Points, baseline: Points, *, bound: float) -> float:
    """Fail at the first look at which the two shares so far differ by more than `bound` standard errors."""
    sent = EACH * np.arange(1, LOOKS + 1)
    ours, theirs = (np.cumsum(points.mean(axis=1)) * EACH / sent for points in (canary, baseline))
    pooled = (ours + theirs) / 2
    error = np.sqrt(np.maximum(2 * pooled * (1 - pooled) / sent, 1e-12))
    return _first((ours - theirs) / error > bound)


def _first(failed: NDArray[np.bool_]) -> float:
    return float((np.argmax(failed) + 1) * EACH) if failed.any() else math.inf


RULES: dict[str, Callable[[Points, Points], float]] = {
    "over 2 %, three failed checks (Flagger-like)": lambda c, b: threshold(c, b, failures=3),
    "over 2 %, failureLimit 0 (Argo-like)": lambda c, b: threshold(c, b, failures=1),
    "Mann-Whitney at each look (Kayenta-like)": mann_whitney,
    "z test at each look": lambda c, b: z_test(c, b, bound=1.96),
    "z test, level spent over ten looks": lambda c, b: z_test(c, b, bound=float(stats.norm.ppf(1 - 0.05 / LOOKS))),
}


def _share(found: list[float]) -> str:
    array = np.array(found)
    return f"{np.isfinite(array).mean():.4f}"


def main() -> None:
    """Print one line for each rule."""
    rng = np.random.default_rng(SEED)
    shape = (LOOKS, EACH // POINT)
    print(f"{'rule':48s} healthy rolled back   1 -> 2 % found   1 -> 5 %: found, median requests")
    for name, rule in RULES.items():
        told = []
        for rate in (0.01, 0.02, 0.05):
            pairs = (
                (rng.binomial(POINT, rate, shape) / POINT, rng.binomial(POINT, 0.01, shape) / POINT)
                for _ in range(ROLLOUTS)
            )
            told.append([rule(canary, baseline) for canary, baseline in pairs])
        _tell(name, told)
    _tell("ours", [[errors(rng, rate, 0.01, 1, LOOKS * EACH) for _ in range(OURS)] for rate in (0.01, 0.02, 0.05)])
    print("latency, lognormal with sigma 0.3")
    slower: list[list[float]] = []
    for factor in (1.0, 1.2):
        drawn = (
            (factor * rng.lognormal(0, 0.3, (LOOKS, EACH)), rng.lognormal(0, 0.3, (LOOKS, EACH))) for _ in range(OURS)
        )
        slower.append([mann_whitney(canary, baseline) for canary, baseline in drawn])
    _tell_latency("Mann-Whitney at each look (Kayenta-like)", slower)
    _tell_latency("ours", [[latency(rng, more, 0.3, 1, LOOKS * EACH) for _ in range(OURS)] for more in (0.0, 0.2)])


def _tell(name: str, told: list[list[float]]) -> None:
    healthy, small, large = told
    print(
        f"{name:48s} {_share(healthy):>19s}   {_share(small):>14s}   {_share(large)}, {np.median(large):.0f}",
        flush=True,
    )


def _tell_latency(name: str, told: list[list[float]]) -> None:
    healthy, slower = told
    print(
        f"{name:48s} healthy rolled back {_share(healthy)}   +20 % found {_share(slower)}, "
        f"median requests {np.median(slower):.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
