"""An estimator that the kernel holds becomes a registered package in one call."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from mlcycle_nb.context import Context
from mlcycle_nb.development.service import ModelDevelopmentManager
from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.packages import PackageStore


@pytest.fixture
def table() -> tuple[pd.DataFrame, np.ndarray]:
    """Two features, the first of which decides."""
    rows = np.random.default_rng(3).normal(size=(80, 2)).astype("float32")
    return pd.DataFrame(rows, columns=["age", "height"]), (rows[:, 0] > 0).astype(int)


class TestRegisterEstimator:
    """What is registered is a proven package with its reference window."""

    def test_the_package_answers_as_the_estimator(
        self, context: Context, table: tuple[pd.DataFrame, np.ndarray]
    ) -> None:
        """Feature names come from the frame, and the format is ONNX."""
        rows, labels = table
        estimator = LogisticRegression().fit(rows, labels)

        version = ModelDevelopmentManager(context).register_estimator(
            "people", estimator, reference=rows, labels=labels
        )

        package = PackageStore(context.folder("packages")).open(version.package_digest)
        assert version.reference == "people/1"
        assert package.format == "onnx"
        assert package.reference().column_names[:2] == ["age", "height"]

    def test_rows_of_another_width_are_refused(self, context: Context, table: tuple[pd.DataFrame, np.ndarray]) -> None:
        """Nothing is registered when the estimator cannot answer for the reference rows."""
        rows, labels = table
        development = ModelDevelopmentManager(context)
        estimator = LogisticRegression().fit(rows, labels)

        with pytest.raises(InvalidInput, match="MLC-100"):
            development.register_estimator("people", estimator, reference=rows[["age"]], labels=labels)

        assert development.models() == []
