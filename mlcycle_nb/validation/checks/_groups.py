"""Rates by group for the fairness checks: the small-group guard, Fairlearn's value and a bootstrap interval."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mlcycle_nb.errors import EngineError
from mlcycle_nb.stats.bootstrap import bootstrap_counts
from mlcycle_nb.validation.checks._confusion import positive_index
from mlcycle_nb.validation.contract import Measurement, Option
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.subject import Subject

Counts = npt.NDArray[np.int64]
Difference = Callable[[Counts], npt.NDArray[np.float64]]
"""Counts of shape (k, groups, true, predicted), true and predicted in {0, 1}, to differences of shape (k,)."""

OPTIONS = {
    "group": Option(kind="text", default=None),
    "positive": Option(kind="text", default=None),
    "min_group": Option(kind="integer", default=30, low=2, high=10**9),
}
RESAMPLES = 2000


def measure_difference(
    subject: Subject,
    gate: Gate,
    *,
    difference: Difference,
    fairlearn_value: Callable[..., float],
    needed: Callable[[Counts], Counts],
    what: str,
) -> Measurement:
    """Measure a largest difference between groups.

    Parameters
    ----------
    difference : callable
        The metric from counts, for many resamples at once.
    fairlearn_value : callable
        The same metric by Fairlearn: the value reported, and the proof that ours agrees.
    needed : callable
        Rows of each group that the metric rests on: its smallest denominator.
    what : str
        Word for those rows.
    """
    groups = subject.data.groups
    if not groups:
        return Measurement(
            missing="insufficient: the data has no groups", advice="give groups={...} (or --group COLUMN) with the data"
        )
    chosen = gate.options["group"]
    if chosen is None and len(groups) > 1:
        return Measurement(
            missing=f"insufficient: say which group is meant: {', '.join(groups)}", advice="add group: NAME to the gate"
        )
    chosen = chosen or next(iter(groups))
    if chosen not in groups:
        return Measurement(missing=f"insufficient: the data has no group {chosen}; it has {', '.join(groups)}")
    positive = positive_index(subject, gate)
    names, index = np.unique(groups[chosen], return_inverse=True)
    truth, answer = (subject.labels == positive).astype(np.int64), (subject.predicted == positive).astype(np.int64)
    counts = np.zeros((len(names), 2, 2), dtype=np.int64)
    np.add.at(counts, (index, truth, answer), 1)
    rows = needed(counts)
    detail = _by_group(names, counts)
    if len(names) < 2:
        return Measurement(
            missing=f"insufficient: {chosen} has one group only ({names[0]})", n=len(index), detail=detail
        )
    smallest = int(gate.options["min_group"])
    thin = [f"{name} ({count} {what})" for name, count in zip(names, rows, strict=True) if count < smallest]
    if thin:
        return Measurement(
            missing=f"insufficient: fewer than {smallest} {what} in {', '.join(thin[:5])}",
            n=len(index),
            detail=detail,
            advice="collect more rows of those groups; a gate on fewer would be a guess",
        )
    found = bootstrap_counts(difference, counts, confidence=gate.confidence, resamples=RESAMPLES, seed=subject.seed)
    value = float(fairlearn_value(truth, answer, sensitive_features=groups[chosen]))
    if abs(value - found.value) > 1e-9:
        raise EngineError(f"Fairlearn gives {value}, the counts give {found.value}", where=gate.check)
    rates = detail["groups"]
    least, most = (pick(rates, key=lambda name: rates[name]["positive_rate"]) for pick in (min, max))
    return Measurement(
        value=value,
        low=min(found.low, value),
        high=max(found.high, value),
        n=len(index),
        detail={**detail, "grouping": chosen},
        advice=f"compare the groups {least} and {most} of {chosen}: most unequal share of positive answers",
    )


def rates(part: Counts, whole: Counts) -> npt.NDArray[np.float64]:
    """Return part / whole, NaN where a resample drew no row of a group (it then counts as the worst)."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def spread(by_group: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the largest difference between groups; NaN stays NaN."""
    return np.asarray(by_group.max(axis=1) - by_group.min(axis=1))


def _by_group(names: npt.NDArray[np.generic], counts: Counts) -> dict[str, dict[str, dict[str, float | int]]]:
    groups: dict[str, dict[str, float | int]] = {}
    for name, table in zip(names.tolist(), counts, strict=True):
        n = int(table.sum())
        right = int(table[0, 0] + table[1, 1])
        groups[str(name)] = {
            "n": n,
            "positive_rate": round(float(table[:, 1].sum() / n), 6),
            "accuracy": round(right / n, 6),
        }
    return {"groups": groups}
