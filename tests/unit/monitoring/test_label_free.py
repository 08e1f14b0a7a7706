"""Accuracy without labels on a real package: near the truth on traffic like the reference, and a reason otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from mlcycle_nb.monitoring.label_free import LabelFree
from mlcycle_nb.monitoring.samples import reference_columns
from mlcycle_nb.packages import Package, PackageStore, build_package, load_runtime
from tests.unit.monitoring.conftest import FEATURES, rows


def truth_of(data: np.ndarray, seed: int) -> np.ndarray:
    """As the fixture's labels are made."""
    noise = 0.5 * np.random.default_rng(seed).normal(size=len(data))
    return (data[:, 0] + data[:, 1] + noise > 0).astype(int)


def test_the_estimate_is_near_what_labels_show(built: Package) -> None:
    ready = LabelFree(built, reference_columns(built))
    runtime, covered = load_runtime(built), 0
    for seed in range(40):
        window = rows(300, 1000 + seed)
        answers = runtime.predict({"input": window})
        found = ready.estimate(answers["probabilities"].max(axis=1).astype(np.float64))
        assert found is not None
        assert found.value is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= (answers["label"] == truth_of(window, seed)).mean() <= found.high

    assert covered >= 32  # of 40 at 0.95: fewer come with a chance under 0.001


def test_too_few_rows_and_no_confidence_give_a_reason(built: Package) -> None:
    ready = LabelFree(built, reference_columns(built))

    assert ready.estimate(np.full(5, 0.9)).why == "5 rows of the window have a confidence, under 20"  # type: ignore[union-attr]
    assert ready.estimate(None).value is None  # type: ignore[union-attr]


@pytest.mark.parametrize("labelled", [True, False])
def test_what_is_not_calibrated_gives_nothing(labelled: bool, tmp_path) -> None:
    """Labels that follow the model to the last row leave nothing to learn from; no labels leave less."""
    from sklearn.linear_model import LogisticRegression

    data = rows(600, 0)
    truth = (data[:, 0] > 0).astype(int)
    model = LogisticRegression(C=1e6, max_iter=5000).fit(data, truth)
    package = build_package(
        model,
        example=data[:50],
        reference=data,
        reference_labels=model.predict(data) if labelled else None,
        feature_names=FEATURES,
        class_names=("no", "yes"),
        out=PackageStore(tmp_path / "packages"),
    )
    found = LabelFree(package, reference_columns(package)).estimate(np.full(100, 0.9))

    assert found is not None
    assert found.value is None
    assert found.why.startswith("not calibrated: ")
    assert ("600 right and 0 wrong" if labelled else "no labels") in found.why
