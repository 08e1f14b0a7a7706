"""Drift detection: CPU a window, false alarms over features and time, and power at a small shift."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import stats

from mlcycle_nb.monitoring.detectors import DETECTORS, alibi_installed
from mlcycle_nb.monitoring.judge import FAMILIES, Column, judge, prepare
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.stats.multiple_testing import OnlineFdr

REFERENCE = 10_000


def main() -> None:
    """Print all figures."""
    for rows, features in ((1000, 20), (100_000, 200)):
        _cost(rows, features)
    _false_alarms(streams=40)
    _power(repetitions=200)


def _cost(rows: int, features: int) -> None:
    rng = np.random.default_rng(0)
    reference = [rng.normal(size=REFERENCE) for _ in range(features)]
    window = [rng.normal(size=rows) for _ in range(features)]
    plain = _cpu(lambda: _plain_ks(reference, window))
    print(f"{rows:,} rows x {features} features, CPU seconds: numpy KS {plain:.3f} = 1")
    for name in ("ks", "psi", "wasserstein", *(("alibi_ks",) if alibi_installed() else ())):
        prepared = prepare([Column(str(i), "data", "numeric", v) for i, v in enumerate(reference)], (name,))
        current = {("data", str(i)): v for i, v in enumerate(window)}

        spent = _cpu(partial(judge, prepared, current, {family: OnlineFdr() for family in FAMILIES}, {}))
        print(f"  {name:12} {spent:.3f}, {spent / plain:.2f} of it")


def _plain_ks(reference: list[np.ndarray], window: list[np.ndarray]) -> None:  # type: ignore[type-arg]
    """What anybody writes by hand: a reference sorted before, both sides of each step, the asymptotic p-value."""
    for values, current in zip(_sorted(reference), window, strict=True):
        now = np.sort(current)
        every = np.concatenate([values, now])
        first = np.searchsorted(values, every, "right") / len(values)
        distance = np.abs(first - np.searchsorted(now, every, "right") / len(now)).max()
        stats.kstwo.sf(distance, round(len(values) * len(now) / (len(values) + len(now))))


_kept: dict[int, list[np.ndarray]] = {}  # type: ignore[type-arg]


def _sorted(reference: list[np.ndarray]) -> list[np.ndarray]:  # type: ignore[type-arg]
    if id(reference) not in _kept:
        _kept[id(reference)] = [np.sort(values) for values in reference]
    return _kept[id(reference)]


def _cpu(work: Callable[[], object]) -> float:
    work()
    spent = []
    for _ in range(3):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return sorted(spent)[1]


def _false_alarms(streams: int, windows: int = 200, features: int = 50) -> None:
    alarmed = alarms = 0
    for seed in range(streams):
        rng = np.random.default_rng(seed)
        columns = [Column(f"f{i}", "data", "numeric", rng.normal(size=1000)) for i in range(features)]
        prepared = prepare(columns, ("ks",))
        control = {family: OnlineFdr() for family in FAMILIES}
        here = 0
        for _ in range(windows):
            current = {("data", f"f{i}"): rng.normal(size=100) for i in range(features)}
            verdict, control = judge(prepared, current, control, {})
            here += verdict.outcome is Outcome.FAILED
        alarmed += bool(here)
        alarms += here
    bound = stats.beta.ppf(0.975, alarmed + 1, streams - alarmed)
    print(
        f"{features} null features x {windows} windows, stated rate 0.05: {alarmed} of {streams} streams alarmed "
        f"(95 % < {bound:.3f}), {alarms} false alarms in {streams * windows:,} windows"
    )


def _power(repetitions: int) -> None:
    for name in ("ks", *(("alibi_ks",) if alibi_installed() else ())):
        DETECTORS.load(name)
        found = 0
        rng = np.random.default_rng(9)
        for _ in range(repetitions):
            columns = [Column(f"f{i}", "data", "numeric", rng.normal(size=REFERENCE)) for i in range(20)]
            prepared = prepare(columns, (name,))
            current = {("data", f"f{i}"): rng.normal(0.25 if i == 7 else 0.0, 1.0, 1000) for i in range(20)}
            verdict, _ = judge(prepared, current, {family: OnlineFdr() for family in FAMILIES}, {})
            found += "f7" in {finding.name for finding in verdict.findings if finding.state == "drift"}
        print(f"shift of 0.25 sd on 1 of 20 features, 1,000 rows, {name}: found {found} of {repetitions}")


if __name__ == "__main__":
    main()
