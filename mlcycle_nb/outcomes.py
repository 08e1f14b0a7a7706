"""The five verdicts that any check, analysis or test of mlcycle_nb can give."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Outcome(StrEnum):
    """A verdict. Only `PASSED` ever opens a gate."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"
    SKIPPED = "skipped"


_WORST_FIRST = (Outcome.ERROR, Outcome.FAILED, Outcome.INCONCLUSIVE, Outcome.SKIPPED, Outcome.PASSED)


def overall(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the worst of `outcomes`; nothing at all is inconclusive, never passed.

    The order is error, failed, inconclusive, skipped, passed: a set with anything that was not shown to be
    good is not shown to be good.
    """
    seen = set(outcomes)
    for outcome in _WORST_FIRST:
        if outcome in seen:
            return outcome
    return Outcome.INCONCLUSIVE
