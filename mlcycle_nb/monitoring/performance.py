"""How good the answers were, as far as labels have come: value, interval, coverage and lag."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlcycle_nb.monitoring.records import Performance
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.serving.labels import as_index

if TYPE_CHECKING:
    import pyarrow as pa

    from mlcycle_nb.packages import Package

SMALLEST = 20
ALPHA = 0.05
ACCURACY_LOSS = 0.05
ERROR_GROWTH = 1.25


@dataclass(frozen=True, slots=True)
class _Joined:
    truth: Any
    predicted: Any
    lag_seconds: Any
    served: int
    unusable: int


def measure(package: Package, version: int, served: pa.Table, labels: pa.Table, now: datetime) -> Performance:
    """Return the performance of one version.

    Parameters
    ----------
    served : pyarrow.Table
        The version's served predictions, each once.
    labels : pyarrow.Table
        All labels of the service: ``prediction_id, row, truth, received_at``.
    """
    output = "label" if package.task == "classification" else "value"
    joined = _join(served, labels, output, package.class_names)
    if output == "label":
        return _accuracy(package, version, joined, now)
    return _error(package, version, joined, now)


def _join(served: pa.Table, labels: pa.Table, output: str, class_names: tuple[str, ...]) -> _Joined:
    import numpy as np
    import pyarrow.compute as pc

    labelled = served.filter(pc.is_in(served["prediction_id"], value_set=labels["prediction_id"].combine_chunks()))
    known = {
        (key, row): (text, received)
        for key, row, text, received in zip(
            *(labels[name].to_pylist() for name in ("prediction_id", "row", "truth", "received_at")), strict=True
        )
    }
    truth, predicted, lags, unusable = [], [], [], 0
    columns = [labelled[name].to_pylist() for name in ("prediction_id", "row", output, "time")]
    for key, row, answer, answered_at in zip(*columns, strict=True):
        found = known.get((key, row))
        if found is None:
            continue
        value = as_index(found[0], class_names)
        if math.isnan(value) or not isinstance(answer, int | float) or not math.isfinite(answer):
            unusable += 1
            continue
        truth.append(value)
        predicted.append(float(answer))
        lags.append((found[1] - answered_at).total_seconds())
    return _Joined(np.asarray(truth), np.asarray(predicted), np.asarray(lags), len(served), unusable)


def _accuracy(package: Package, version: int, joined: _Joined, now: datetime) -> Performance:
    from mlcycle_nb.stats.betting import rate_lower
    from mlcycle_nb.stats.bootstrap import wilson

    n = len(joined.truth)
    baseline = _baseline(package)
    if not n:
        return _nothing(version, "accuracy", joined, now, baseline)
    errors = int((joined.truth != joined.predicted).sum())
    interval = wilson(n - errors, n)
    outcome, why = Outcome.PASSED, ""
    if n < SMALLEST or baseline is None:
        outcome = Outcome.INCONCLUSIVE
        why = f"waiting {n}/{SMALLEST} labels" if n < SMALLEST else "the reference window has no labels to compare with"
    elif rate_lower(errors, n, alpha=ALPHA) > 1 - baseline + ACCURACY_LOSS:
        # This bound holds however often labels come and somebody looks.
        outcome, why = Outcome.FAILED, f"accuracy is over {ACCURACY_LOSS} below the reference's {baseline:.3f}"
    elif interval.low < baseline - ACCURACY_LOSS:
        outcome, why = Outcome.INCONCLUSIVE, "too few labels to tell it from a loss"
    return _performance(version, "accuracy", joined, now, baseline, interval, outcome, why)


def _error(package: Package, version: int, joined: _Joined, now: datetime) -> Performance:
    import numpy as np

    from mlcycle_nb.stats.bootstrap import mean_interval

    n = len(joined.truth)
    baseline = _baseline(package)
    if n < 2:
        return _nothing(version, "mean_absolute_error", joined, now, baseline)
    interval = mean_interval(np.abs(joined.truth - joined.predicted), confidence=0.99)
    outcome, why = Outcome.PASSED, ""
    if n < SMALLEST or baseline is None:
        outcome = Outcome.INCONCLUSIVE
        why = f"waiting {n}/{SMALLEST} labels" if n < SMALLEST else "the reference window has no labels to compare with"
    elif interval.low > baseline * ERROR_GROWTH:
        outcome, why = Outcome.FAILED, f"the error is over {ERROR_GROWTH} times the reference's {baseline:.3g}"
    elif interval.high > baseline * ERROR_GROWTH:
        outcome, why = Outcome.INCONCLUSIVE, "too few labels to tell it from a loss"
    return _performance(version, "mean_absolute_error", joined, now, baseline, interval, outcome, why)


def _baseline(package: Package) -> float | None:
    """Return the metric on the reference window, None when it has no labels."""
    import numpy as np

    table = package.reference()
    if "label" not in table.column_names or "prediction" not in table.column_names or not len(table):
        return None
    try:
        truth = np.asarray(table["label"].to_pylist(), dtype=np.float64)
        predicted = np.asarray(table["prediction"].to_pylist(), dtype=np.float64)
    except (TypeError, ValueError):
        return None
    usable = np.isfinite(truth) & np.isfinite(predicted) if truth.ndim == 1 and predicted.ndim == 1 else None
    if usable is None or not usable.any():
        return None
    truth, predicted = truth[usable], predicted[usable]
    classification = package.task == "classification"
    return float((truth == predicted).mean() if classification else np.abs(truth - predicted).mean())


def _performance(
    version: int,
    metric: str,
    joined: _Joined,
    now: datetime,
    baseline: float | None,
    interval: Any,
    outcome: str,
    why: str,
) -> Performance:
    import numpy as np

    n = len(joined.truth)
    return Performance(
        time=now,
        version=version,
        metric=metric,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        labelled=n,
        served=joined.served,
        coverage=n / joined.served if joined.served else 0.0,
        lag_seconds=float(np.median(joined.lag_seconds)),
        baseline=baseline,
        outcome=str(outcome),
        why=why if not joined.unusable else f"{why}; {joined.unusable} labels are no class of this model".lstrip("; "),
    )


def _nothing(version: int, metric: str, joined: _Joined, now: datetime, baseline: float | None) -> Performance:
    why = f"waiting 0/{SMALLEST} labels"
    if joined.unusable:
        why = f"{joined.unusable} labels are no class of this model"
    return Performance(
        time=now,
        version=version,
        metric=metric,
        value=None,
        low=None,
        high=None,
        labelled=len(joined.truth),
        served=joined.served,
        coverage=0.0,
        lag_seconds=None,
        baseline=baseline,
        outcome=str(Outcome.INCONCLUSIVE),
        why=why,
    )
