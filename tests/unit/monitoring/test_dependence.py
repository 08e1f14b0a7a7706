"""Rows that depend on one another are noticed, independent ones are not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mlcycle_nb.monitoring.dependence import ALPHA, dependence
from mlcycle_nb.monitoring.detectors import DETECTORS
from mlcycle_nb.monitoring.judge import DATA, FAMILIES, Column, judge, prepare, reference_digest
from mlcycle_nb.stats.multiple_testing import OnlineFdr


def chained(rng: np.random.Generator, rows: int, correlation: float) -> np.ndarray:
    noise = rng.normal(size=rows) * np.sqrt(1 - correlation**2)
    values = np.empty(rows)
    values[0] = rng.normal()
    for position in range(1, rows):
        values[position] = correlation * values[position - 1] + noise[position]
    return values


def test_independent_rows_are_left_alone() -> None:
    rng, trials = np.random.default_rng(1), 400
    told = sum(bool(dependence(rng.normal(size=200))) for _ in range(trials))

    assert told <= stats.binom.ppf(0.999, trials, ALPHA)


@pytest.mark.parametrize("rows", [100, 1000])
def test_chained_rows_are_told_with_what_they_are_worth(rows: int) -> None:
    rng = np.random.default_rng(2)
    said = [dependence(chained(rng, rows, 0.7)) for _ in range(50)]

    assert all(f"{rows} rows are worth about " in text for text in said)
    worth = np.median([int(text.rpartition(" ")[2]) for text in said])
    # Of a Gaussian chain: rank correlation by Pearson's formula, less the first-order bias of an estimate from n rows.
    known = 6 / np.pi * np.arcsin(0.7 / 2) - (1 + 4 * 0.7) / rows
    assert worth == pytest.approx(rows * (1 - known) / (1 + known), rel=0.15)


def test_the_remark_is_right_that_levels_do_not_hold_then() -> None:
    """Oracle for why it is said at all: an independent test at level 0.05 fires far more often on chained rows."""
    rng, ours = np.random.default_rng(3), DETECTORS.load("ks")
    fired = sum(
        ours.compare(ours.prepare(rng.normal(size=2000)), chained(rng, 200, 0.7)).p_value <= 0.05 for _ in range(100)
    )

    assert fired > stats.binom.ppf(0.999, 100, 0.05)


def test_the_verdict_carries_it() -> None:
    rng = np.random.default_rng(4)
    prepared = prepare([Column(name, DATA, "numeric", rng.normal(size=500)) for name in ("a", "b")], ["ks"])
    current = {(DATA, "a"): chained(rng, 200, 0.9), (DATA, "b"): rng.normal(size=200)}
    verdict, _ = judge(prepared, current, {family: OnlineFdr() for family in FAMILIES}, {})
    notes = {finding.name: finding.note for finding in verdict.findings}

    assert "rows depend on one another" in notes["a"]
    assert notes["b"] == ""


def test_a_reference_has_a_digest_of_its_values_and_of_how_they_are_compared() -> None:
    values = np.random.default_rng(5).normal(size=100)
    columns = [Column("a", DATA, "numeric", values)]
    moved = [Column("a", DATA, "numeric", values + 1e-12)]
    digest = reference_digest(columns, prepare(columns, ["ks"]))

    assert digest == reference_digest(columns, prepare(columns, ["ks"]))
    assert digest != reference_digest(moved, prepare(moved, ["ks"]))
    assert digest != reference_digest(columns, prepare(columns, ["psi"]))
    # As it was when this was written: another one means that verdicts of before and after cannot be compared.
    fixed = [Column("a", DATA, "numeric", np.arange(50.0))]
    assert reference_digest(fixed, prepare(fixed, ["ks"])) == "d17abca9499ea897"
