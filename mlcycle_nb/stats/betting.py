"""Evidence that can be looked at as often as one likes: a bettor's capital against a null hypothesis.

The capital starts at 1 and is, under the null hypothesis, a non-negative supermartingale: the chance that it
*ever* reaches ``1 / alpha`` is at most ``alpha`` (Ville 1939). Two things make it strong here:

* The bet is a mixture over a few alternatives, so small and large effects are both found.
* Capital above ``1 / alpha`` would be wasted. It is cut off, and what was cut is given back to the other outcomes
  of the same batch, so that the expectation stays exactly the same. In one large batch this is the
  Neyman-Pearson test; in many small ones it recovers the overshoot.

References
----------
Shafer (2021). Testing by betting. J. R. Stat. Soc. A 184(2), 407-431.
Fischer, Ramdas (2024). Improving the (approximate) sequential probability ratio test by avoiding overshoot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, logsumexp

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.stats._arrays import Floats, probability

_SMALLEST_LOG = -700.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Capital:
    """What a mixture of bettors owns: the log of each one's capital (weights included) and of the common boost."""

    log_wealth: tuple[float, ...]
    log_boost: float = 0.0
    reached: bool = False

    @classmethod
    def start(cls, weights: tuple[float, ...]) -> Capital:
        """Return a capital of 1, divided by `weights`."""
        if not weights or min(weights) <= 0 or abs(sum(weights) - 1) > 1e-9:
            raise InvalidInput("weights must be positive and sum to 1", value=weights)
        return cls(log_wealth=tuple(math.log(weight) for weight in weights))

    @property
    def log_total(self) -> float:
        """Log of the capital of all bettors together."""
        return float(logsumexp(self.log_wealth)) + self.log_boost

    def e_value(self, alpha: float) -> float:
        """Return the evidence, at most ``1 / alpha``."""
        return 1 / alpha if self.reached else min(math.exp(self.log_total), 1 / alpha)

    def bet(self, observed: int, log_null: Floats, log_alternatives: Floats, *, alpha: float) -> Capital:
        """Return the capital after one batch.

        Parameters
        ----------
        observed : int
            Index of the outcome that was seen.
        log_null : ndarray, shape (outcomes,)
            Log probability of each outcome at the border of the null hypothesis.
        log_alternatives : ndarray, shape (bettors, outcomes)
            The same under each bettor's alternative. The ratio must rise with the outcome index, so that the
            border is the worst case of a one-sided null hypothesis.
        """
        if self.reached:
            return self
        cap = -math.log(alpha)
        ratios = log_alternatives - log_null[None, :]
        after = logsumexp(np.asarray(self.log_wealth)[:, None] + ratios, axis=0) + self.log_boost
        gain = _recycled(after, log_null, self.log_total, cap)
        if after[observed] + gain >= cap - 1e-12:
            return replace(self, reached=True)
        wealth = np.maximum(np.asarray(self.log_wealth) + ratios[:, observed], _SMALLEST_LOG)
        return Capital(log_wealth=tuple(wealth.tolist()), log_boost=self.log_boost + gain)


def _recycled(after: Floats, log_null: Floats, log_before: float, cap: float) -> float:
    """Return log b >= 0 with ``sum(null * min(b * after, 1 / alpha)) == before``: nothing is wasted above the cap."""
    gain = 0.0
    if after.max() <= cap:
        return gain
    null = np.exp(log_null)
    before = math.exp(log_before)
    for _ in range(len(after) + 1):
        over = after + gain >= cap
        left = before - math.exp(cap) * float(null[over].sum())
        rest = float(np.exp(after[~over] + log_null[~over]).sum())
        if left <= 0 or rest <= 0:
            return gain
        raised = max(gain, math.log(left / rest))
        if raised <= gain + 1e-12:
            return gain
        gain = raised
    return gain


def log_hypergeometric(n_first: int, n_second: int, marked: int, odds_ratios: tuple[float, ...]) -> tuple[int, Floats]:
    """Log probabilities of how many of `marked` observations fall in the first sample.

    Given how many of all observations are marked, their number in the first sample follows Fisher's noncentral
    hypergeometric distribution, which depends on the odds ratio alone: the base rate drops out.

    Returns
    -------
    (int, ndarray of shape (len(odds_ratios), outcomes))
        The smallest possible number, and the log probabilities of it and the following ones.
    """
    low, high = max(0, marked - n_second), min(marked, n_first)
    x = np.arange(low, high + 1, dtype=np.float64)
    base = _log_choose(n_first, x) + _log_choose(n_second, marked - x)
    rows = [base + x * math.log(odds) for odds in odds_ratios]
    return low, np.array([row - logsumexp(row) for row in rows])


def log_binomial(n: int, rates: tuple[float, ...]) -> Floats:
    """Log probabilities of 0..n successes, one row for each rate."""
    x = np.arange(n + 1, dtype=np.float64)
    base = _log_choose(n, x)
    return np.array([base + x * math.log(rate) + (n - x) * math.log1p(-rate) for rate in rates])


def _log_choose(n: float, k: npt.NDArray[np.float64]) -> Floats:
    return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1), dtype=np.float64)


def rate_upper(events: int, n: int, *, alpha: float = 0.05) -> float:
    """Upper bound for a rate that holds at all times together with probability ``1 - alpha``.

    Half of the bet is on a rate of exactly 0, so 0 events in n give about ``(3 + log 2) / n`` at 0.05.
    """
    probability(alpha, what="alpha")
    if n == 0:
        return 1.0
    mixture = _log_beta_mixture(events, n) - math.log(2)
    if events == 0:
        mixture = float(np.logaddexp(mixture, -math.log(2)))
    return _where_likelihood_falls(events, n, mixture + math.log(alpha), events / n, 1.0)


def rate_lower(events: int, n: int, *, alpha: float = 0.05) -> float:
    """Lower bound for a rate that holds at all times together with probability ``1 - alpha``."""
    probability(alpha, what="alpha")
    if n == 0 or events == 0:
        return 0.0
    return _where_likelihood_falls(events, n, _log_beta_mixture(events, n) + math.log(alpha), events / n, 0.0)


def _log_beta_mixture(events: int, n: int) -> float:
    # Beta(1/2, 1/2) mixture of Bernoulli likelihoods (Robbins 1970).
    return float(gammaln(events + 0.5) + gammaln(n - events + 0.5) - gammaln(n + 1) - 2 * gammaln(0.5))


def _where_likelihood_falls(events: int, n: int, log_level: float, inside: float, outside: float) -> float:
    def log_likelihood(rate: float) -> float:
        hit = events * math.log(rate) if events else 0.0
        miss = (n - events) * math.log1p(-rate) if n > events else 0.0
        return hit + miss

    for _ in range(60):
        middle = (inside + outside) / 2
        if 0 < middle < 1 and log_likelihood(middle) > log_level:
            inside = middle
        elif middle in (0.0, 1.0):
            return outside
        else:
            outside = middle
    return outside
