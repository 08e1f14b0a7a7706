"""Accuracy without labels, against simulated truth; the bounds of each simulation follow from its number of trials."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mlcycle_nb.stats.calibration import calibrate, estimate, still_holds

TRIALS = 300
FALLING = np.random.default_rng(0).random(1000) < np.linspace(0.95, 0.6, 1000)


def confident(rng: np.random.Generator, rows: int, *, harder: float = 0.0) -> np.ndarray:
    """Confidences of a two-class model: 0.5 to 1, lower where the inputs are harder."""
    return 1 / (1 + np.exp(-np.abs(rng.normal(1.5 - harder, 1.0, rows))))


def truth(rng: np.random.Generator, confidence: np.ndarray, *, temperature: float = 1.0) -> np.ndarray:
    """Right with the chance that the confidence names, or with that of an over-confident model."""
    logit = np.log(confidence / (1 - confidence)) / temperature
    return rng.random(len(confidence)) < 1 / (1 + np.exp(-logit))


def at_least(share: float) -> int:
    """Return the count that a share of the trials falls short of with a chance of 0.001."""
    return int(stats.binom.ppf(0.001, TRIALS, share))


def at_most(share: float) -> int:
    return int(stats.binom.ppf(0.999, TRIALS, share))


@pytest.mark.parametrize("temperature", [1.0, 2.5], ids=["calibrated", "over-confident"])
@pytest.mark.parametrize("harder", [0.0, 1.0], ids=["as in the reference", "harder inputs"])
@pytest.mark.parametrize("rows", [50, 500])
def test_the_interval_holds_the_accuracy_that_labels_would_show(temperature: float, harder: float, rows: int) -> None:
    rng = np.random.default_rng(11)
    covered = told = 0
    for _ in range(TRIALS):
        known = confident(rng, 1000)
        calibration, _ = calibrate(known, truth(rng, known, temperature=temperature))
        if calibration is None:
            continue
        told += 1
        now = confident(rng, rows, harder=harder)
        found = estimate(calibration, now)
        covered += found.low <= truth(rng, now, temperature=temperature).mean() <= found.high

    assert told >= at_least(0.99), "a calibrated model is called that"
    assert covered >= at_least(0.95) - (TRIALS - told)


def test_it_follows_a_loss_that_the_inputs_bring() -> None:
    rng = np.random.default_rng(12)
    known = confident(rng, 4000)
    calibration, _ = calibrate(known, truth(rng, known))
    assert calibration is not None
    before, after = (estimate(calibration, confident(rng, 2000, harder=harder)) for harder in (0.0, 1.2))

    assert after.high < before.low


def test_a_model_that_is_calibrated_is_rarely_called_otherwise() -> None:
    """The test's level is 0.01."""
    rng = np.random.default_rng(13)
    refused = 0
    for _ in range(TRIALS):
        known = confident(rng, 2000)
        refused += calibrate(known, truth(rng, known))[0] is None

    assert refused <= at_most(0.01)


def test_a_model_whose_confidence_says_something_else_gives_nothing() -> None:
    """Right mostly in the middle, so that no curve of confidence fits."""
    rng = np.random.default_rng(14)
    refused = 0
    for _ in range(30):
        known = confident(rng, 2000)
        middle = np.abs(known - np.median(known)) < 0.1
        calibration, why = calibrate(known, rng.random(2000) < np.where(middle, 0.95, 0.6))
        refused += calibration is None
        assert calibration is not None or why.startswith("not calibrated: ")

    assert refused == 30


@pytest.mark.parametrize(
    ("confidence", "right", "said"),
    [
        (np.linspace(0.5, 1, 100), np.arange(100) % 2 == 0, "100 labelled reference rows, under 200"),
        (np.linspace(0.5, 1, 1000), np.arange(1000) > 4, "995 right and 5 wrong"),
        (np.full(1000, 0.8), np.arange(1000) % 5 > 0, "1 values only"),
        (
            np.linspace(0.5, 1, 1000),
            np.random.default_rng(0).random(1000) < np.linspace(0.95, 0.6, 1000),
            "not more often",
        ),
    ],
)
def test_reasons(confidence: np.ndarray, right: np.ndarray, said: str) -> None:
    calibration, why = calibrate(confidence, right)

    assert calibration is None
    assert said in why


def test_a_curve_by_an_independent_fit() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(15)
    known = confident(rng, 3000)
    right = truth(rng, known, temperature=2.0)
    ours, _ = calibrate(known, right)
    theirs = LogisticRegression(C=1e9, tol=1e-10).fit(np.log(known / (1 - known)).reshape(-1, 1), right)

    assert ours is not None
    assert ours.weights == pytest.approx([theirs.intercept_[0], theirs.coef_[0, 0]], abs=1e-3)


def test_late_labels_that_do_not_fit_are_told_from_those_that_do() -> None:
    rng = np.random.default_rng(16)
    known = confident(rng, 2000)
    calibration, _ = calibrate(known, truth(rng, known))
    assert calibration is not None
    later = confident(rng, 500)
    small = sum(still_holds(calibration, x := confident(rng, 200), truth(rng, x)) < 0.01 for _ in range(TRIALS))

    assert small <= at_most(0.02)  # one calibration is behind all of these trials
    assert still_holds(calibration, later, rng.random(500) < 0.5) < 1e-6
