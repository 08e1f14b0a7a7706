"""Do the new version's answers fall on the same kinds as stable's?

Each kind of answer (a class, or a range of values) has its own sequential test of its share, and all of them together
keep one error rate. It needs no copies and no labels, so it is what notices a version that answers nearly everything
alike when nothing is mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.stats.sequential import ErrorRateTest, Evidence

if TYPE_CHECKING:
    import pyarrow as pa

KINDS_MOST = 50
"""Of more classes than this, several share a kind: each further one weakens all the others' tests."""
VALUE_RANGES = 5
VALUES_FOR_RANGES = 100
"""Values of stable that fix the ranges; they are not used again."""
TOLERATED_ODDS = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftTest:
    """The shares of the kinds of answers, of both versions.

    Parameters
    ----------
    bound : float
        A kind may become more frequent by this share of all answers.
    alpha : float
        Largest probability to fail a healthy version over the whole rollout, all kinds together.
    kinds : int
        How many kinds there are: classes, or ranges of values.
    edges : tuple of float, optional
        Between ranges of values; empty for classes, None until stable has answered enough to set them.
    """

    bound: float
    alpha: float
    minimum_requests: int
    kinds: int
    edges: tuple[float, ...] | None = ()
    waiting: tuple[float, ...] = ()
    tests: tuple[ErrorRateTest, ...] = ()

    @classmethod
    def start(cls, *, bound: float, alpha: float, minimum_requests: int, classes: int) -> ShiftTest:
        """Return the test before the first answer; `classes` is 0 for a model that gives values."""
        if classes < 0:
            raise InvalidInput("there cannot be fewer than no classes", value=classes)
        kinds = min(classes, KINDS_MOST) or VALUE_RANGES
        one = ErrorRateTest(
            # A kind that became rare made another one frequent, so looking one way is enough.
            alpha=alpha / kinds,
            tolerated_ratio=TOLERATED_ODDS,
            tolerated_increase=bound,
            minimum_requests=minimum_requests,
        )
        edges = () if classes else None
        return cls(
            bound=bound, alpha=alpha, minimum_requests=minimum_requests, kinds=kinds, edges=edges, tests=(one,) * kinds
        )

    def updated(self, *, canary: Sequence[float], stable: Sequence[float]) -> ShiftTest:
        """Return the test after more answers: class indices or values, one a request."""
        if self.edges is None:
            known = (*self.waiting, *map(float, stable))
            if len(known) < VALUES_FOR_RANGES:
                return replace(self, waiting=known)
            cuts = np.quantile(np.array(known), np.arange(1, self.kinds) / self.kinds)
            return replace(self, edges=tuple(float(cut) for cut in cuts), waiting=())
        if not len(canary) and not len(stable):
            return self
        new, old = self._counts(canary), self._counts(stable)
        tests = tuple(
            test.updated(
                canary_requests=len(canary),
                canary_errors=int(new[kind]),
                baseline_requests=len(stable),
                baseline_errors=int(old[kind]),
            )
            for kind, test in enumerate(self.tests)
        )
        return replace(self, tests=tests)

    def evidence(self) -> Evidence:
        """Judge what has been seen; the estimate is the share of answers that moved to another kind."""
        canary, stable = self.tests[0].canary_requests, self.tests[0].baseline_requests
        found = [test.evidence() for test in self.tests]
        # Significant and large: with many answers any retrained model differs a little.
        moved = [
            kind
            for kind, (test, one) in enumerate(zip(self.tests, found, strict=True))
            if test.capital.reached and one.estimate >= self.bound
        ]
        distance = sum(max(one.estimate, 0.0) for one in found) if canary and stable else float("nan")
        high = max((one.high for one in found), default=float("nan"))
        if moved:
            worst = max(moved, key=lambda kind: found[kind].estimate)
            test = self.tests[worst]
            outcome = Outcome.FAILED
            reason = (
                f"{self._name(worst)} is {test.canary_errors / canary:.1%} of {canary} answers against "
                f"{test.baseline_errors / stable:.1%} of {stable}"
            )
        elif canary < self.minimum_requests:
            outcome, reason = Outcome.INCONCLUSIVE, f"waiting for requests: {canary}/{self.minimum_requests}"
        elif high <= self.bound:
            outcome = Outcome.PASSED
            reason = f"no kind of answer is more frequent by over {high:.1%}, tolerated {self.bound:.1%}"
        else:
            outcome = Outcome.INCONCLUSIVE
            reason = f"a kind of answer may be more frequent by up to {high:.1%}, tolerated {self.bound:.1%}"
        return Evidence(
            verdict=outcome,
            e_value=max(one.e_value for one in found),
            reason=f"prediction shift: {reason}",
            requests=canary,
            estimate=distance,
            low=0.0,
            high=high,
        )

    def _counts(self, answers: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        values = np.asarray(answers, dtype=np.float64)
        values = values[np.isfinite(values)]
        kinds = np.searchsorted(np.array(self.edges), values) if self.edges else values.astype(np.int64) % self.kinds
        return np.bincount(kinds, minlength=self.kinds)

    def _name(self, kind: int) -> str:
        if not self.edges:
            return f"class {kind}"
        if kind == 0:
            return f"a value up to {self.edges[0]:.4g}"
        if kind == len(self.edges):
            return f"a value over {self.edges[-1]:.4g}"
        return f"a value from {self.edges[kind - 1]:.4g} to {self.edges[kind]:.4g}"


def answers_of(predictions: pa.Table, version: int) -> list[float]:
    """Return what a version answered to requests that it served, one answer a request.

    Rows of one request come from one caller, often alike: counting each would make a few requests look like many.
    """
    import pyarrow.compute as pc

    if predictions.num_rows == 0:
        return []
    chosen = pc.and_(
        pc.and_(pc.equal(predictions["version"], version), pc.invert(predictions["mirrored"])),
        pc.equal(predictions["row"], 0),
    )
    column = "label" if "label" in predictions.column_names else "value"
    found = predictions.filter(chosen)[column].to_pylist()
    return [float("nan") if one is None else float(one) for one in found]
