"""What a trained model is told to be, where nobody says it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mlcycle_nb.training.hand_over import guess_task
from mlcycle_nb.training.toolbox import _completed


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        (None, "classification"),
        (np.array([0, 2, 1]), "classification"),
        (np.array([0.0, 1.0, 1.0]), "classification"),  # for a BCE loss
        (np.array([0.0, 0.5, 1.0]), "regression"),
        (np.array([2.0, 3.0]), "regression"),
    ],
)
def test_guess(labels: Any, task: str) -> None:
    assert guess_task(labels) == task


ROWS = torch.arange(12.0).reshape(6, 2)
LOADER = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(ROWS, ROWS[:, :1] / 3), batch_size=2)


def test_rows_and_labels_of_the_loader() -> None:
    """Both, where none are given."""
    told = _completed({}, LOADER)

    assert told["reference"].shape == (6, 2)
    assert told["reference_labels"].shape == (6,)


def test_given_rows_keep_their_own_labels() -> None:
    """The loader's tell the task only: they need not belong to these rows."""
    assert _completed({"reference": ROWS[:2]}, LOADER).keys() == {"reference", "task"}
    assert _completed({"reference": ROWS[:2]}, LOADER)["task"] == "regression"
    assert _completed({"reference": ROWS[:2], "task": "classification"}, LOADER)["task"] == "classification"
    assert "task" not in _completed({"reference": ROWS[:2], "reference_labels": np.array([0, 1])}, LOADER)


def test_given_labels_stay() -> None:
    """With rows of the loader."""
    given = np.arange(6)
    told = _completed({"reference_labels": given}, LOADER)

    assert told["reference_labels"] is given
    assert told["reference"].shape == (6, 2)
