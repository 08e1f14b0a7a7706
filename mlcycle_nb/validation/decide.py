"""The decision of one gate: from a measurement and a bound to an outcome, with the reason and the next step.

Written as "prove it is good": only a true comparison of finite numbers passes, so NaN, infinity, absence and too few
samples cannot.
"""

from __future__ import annotations

import math

from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.stats.bootstrap import Interval, observations_needed
from mlcycle_nb.validation.contract import Check, Measurement
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.records import GateResult

_COLLECT = "collect more rows of the same kind and validate again"


def decide(gate: Gate, check: Check, found: Measurement, *, seconds: float = 0.0) -> GateResult:
    """Judge `found` by `gate`."""
    outcome, reason, next_step = _judge(gate, check, found)
    return GateResult(
        check=gate.check,
        family=check.family,
        outcome=outcome,
        required=gate.required,
        reason=reason,
        bound=gate.bound,
        value=_finite(found.value),
        low=_finite(found.low),
        high=_finite(found.high),
        n=found.n,
        unit=check.unit,
        next_step="" if outcome is Outcome.PASSED else next_step,
        seconds=round(seconds, 3),
        detail=dict(found.detail),
    )


def failed_to_run(gate: Gate, family: str, problem: str, *, seconds: float = 0.0) -> GateResult:
    """Return the result of a check that raised."""
    return GateResult(
        check=gate.check,
        family=family,
        outcome=Outcome.ERROR,
        required=gate.required,
        reason=problem,
        bound=gate.bound,
        next_step="mend what the message names and validate again",
        seconds=round(seconds, 3),
    )


def _judge(gate: Gate, check: Check, found: Measurement) -> tuple[Outcome, str, str]:
    if found.flaw:
        return Outcome.FAILED, found.flaw, found.advice
    if found.missing:
        return Outcome.INCONCLUSIVE, found.missing, found.advice or _COLLECT
    if check.bounds is None:
        if found.proven is True:
            return Outcome.PASSED, "nothing found", ""
        return Outcome.INCONCLUSIVE, "the check proved nothing", found.advice
    if found.n is None or found.n < gate.min_samples:
        return Outcome.INCONCLUSIVE, f"{found.n or 0} samples of at least {gate.min_samples}", _COLLECT
    value, low, high = found.value, found.low, found.high
    numbers = [number for number in (value, low, high) if number is not None and math.isfinite(number)]
    if value is None or low is None or high is None or len(numbers) < 3:
        return Outcome.INCONCLUSIVE, f"{check.name} is not a finite number", "look at the labels and the predictions"
    band = f"{_show(value)}, {gate.confidence:.0%} interval {_show(low)} to {_show(high)}"
    above = gate.minimum is None or low >= gate.minimum
    below = gate.maximum is None or high <= gate.maximum
    if above and below:
        return Outcome.PASSED, f"{band}; the bound {gate.bound} is kept by the whole interval", ""
    if (gate.minimum is not None and high < gate.minimum) or (gate.maximum is not None and low > gate.maximum):
        return Outcome.FAILED, f"{band}; the bound {gate.bound} is broken by the whole interval", found.advice
    bound = gate.minimum if not above else gate.maximum
    assert bound is not None  # one of the two sides is open
    interval = Interval(value=value, low=low, high=high, confidence=gate.confidence, n=found.n)
    needed = observations_needed(interval, bound)
    more = (
        "no number of rows can decide it"
        if needed is None
        else f"about {max(needed, found.n + 1):,} rows would decide it"
    )
    reason = f"{band}; too near the bound {gate.bound} to tell from {found.n:,} rows: {more}"
    return Outcome.INCONCLUSIVE, reason, f"{_COLLECT} ({more})" if needed is not None else found.advice


def _show(value: float) -> str:
    return f"{value:.4g}"


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
