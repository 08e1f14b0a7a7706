"""Metrics of a confusion matrix, for many matrices at once, and their intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.stats.bootstrap import bootstrap_counts, wilson_bounds
from mlcycle_nb.validation.contract import Measurement, Option
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.subject import Subject

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
PerClass = Callable[[Counts], Floats]
"""Counts of shape (k, classes, classes) to scores of shape (k, classes)."""

AVERAGE = {
    "average": Option(kind="text", default="auto", choices=("auto", "macro", "binary")),
    "positive": Option(kind="text", default=None),
}
RESAMPLES = 2000


def recall_by_class(counts: Counts) -> Floats:
    """Share of each true class that is found."""
    return _ratio(np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=2))


def precision_by_class(counts: Counts) -> Floats:
    """Share of each predicted class that is right; a class that is never predicted scores 0."""
    return _ratio(np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=1))


def f1_by_class(counts: Counts) -> Floats:
    """Harmonic mean of precision and recall of each class."""
    return _ratio(2 * np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=1) + counts.sum(axis=2))


def measure_per_class(subject: Subject, gate: Gate, score: PerClass, advice: str) -> Measurement:
    """Measure a per-class score as macro average or for the positive class."""
    table = subject.confusion
    present = table.sum(axis=1) > 0
    names = [name for name, here in zip(subject.classes, present, strict=True) if here]
    scores = dict(zip(subject.classes, score(table[None])[0].round(6).tolist(), strict=True))
    detail = {"classes": {name: scores[name] for name in names}}
    missing = [name for name, here in zip(subject.classes, present, strict=True) if not here]
    if missing:
        return Measurement(
            missing=f"no row of class {', '.join(missing[:5])} in the data", n=int(table.sum()), detail=detail
        )
    if binary(subject, gate):
        index = positive_index(subject, gate)
        supports = float(table[index].sum() if score is recall_by_class else max(table[:, index].sum(), 1))

        def statistic(counts: Counts) -> Floats:
            return score(counts)[:, index]
    else:
        per_class = table.sum(axis=1)
        # Effective size of an average over classes: few rows of one class make the whole average uncertain.
        supports = len(per_class) ** 2 / float((1 / per_class).sum())

        def statistic(counts: Counts) -> Floats:
            return score(counts).mean(axis=1)

    found = bootstrap_counts(statistic, table, confidence=gate.confidence, resamples=RESAMPLES, seed=subject.seed)
    low, high = wilson_bounds(found.value, supports, confidence=gate.confidence)
    worst = min(detail["classes"], key=lambda name: detail["classes"][name])
    return Measurement(
        value=found.value,
        # With hardly any error the bootstrap sees no spread; Wilson's interval does not fall for it.
        low=min(found.low, low),
        high=max(found.high, high),
        n=found.n,
        detail=detail,
        advice=f"{advice}; the weakest class is {worst} at {detail['classes'][worst]:.3g}",
    )


def binary(subject: Subject, gate: Gate) -> bool:
    """Return whether one positive class is meant rather than the average of all."""
    average = gate.options["average"]
    if average == "binary" and gate.options["positive"] is None and len(subject.classes) != 2:
        raise InvalidInput("binary average of several classes needs positive: CLASS", value=len(subject.classes))
    return average == "binary" or (
        average == "auto" and (gate.options["positive"] is not None or len(subject.classes) == 2)
    )


def positive_index(subject: Subject, gate: Gate) -> int:
    """Return the index of the positive class: the one named, else the second of two."""
    named = gate.options.get("positive")
    if named is None:
        if len(subject.classes) != 2:
            raise InvalidInput(
                f"the model has {len(subject.classes)} classes",
                where=gate.check,
                remedy="say which one counts with positive: CLASS",
            )
        return 1
    if named not in subject.classes:
        raise InvalidInput(
            "the positive class is none of the model's", value=named, remedy=f"known: {', '.join(subject.classes[:20])}"
        )
    return subject.classes.index(named)


def _ratio(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> Floats:
    return np.divide(part, whole, out=np.zeros(part.shape, dtype=np.float64), where=whole > 0)
