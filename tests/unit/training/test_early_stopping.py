"""When early stopping ends training, and what it remembers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.training.early_stopping import EarlyStopping, Patience


def epochs_until_over(values: list[float], *, higher: bool = False, **rule: Any) -> int | None:
    """Return after how many epochs training ends."""
    patience = Patience(EarlyStopping(**rule), "val_loss", higher_is_better=higher)
    for epoch, value in enumerate(values):
        patience.take(value, epoch)
        if patience.over:
            return epoch + 1
    return None


@pytest.mark.parametrize(
    ("values", "options", "ended"),
    [
        ([3.0, 2.0, 1.0], {"patience": 1}, None),
        ([3.0, 3.0], {"patience": 1}, 2),
        ([3.0, 4.0, 2.0, 2.5, 2.4], {"patience": 2}, 5),
        ([3.0, 2.95, 2.9, 2.0], {"patience": 2, "min_delta": 0.2}, 3),
        ([0.1, 0.2, 0.15, 0.15], {"patience": 2, "higher": True}, 4),
        ([math.nan, 1.0, math.nan, math.inf], {"patience": 2}, 4),
        ([math.nan, math.nan], {"patience": 2}, 2),
        ([0.5, math.inf, math.inf], {"patience": 2, "higher": True}, 3),
    ],
)
def test_the_epoch_it_ends_after(values: list[float], options: dict[str, Any], ended: int | None) -> None:
    """Epochs in a row without an improvement count, and what is not finite is none."""
    assert epochs_until_over(values, **options) == ended


def test_resumed_anywhere_it_ends_at_the_same_epoch() -> None:
    """The state goes through JSON, as checkpoints hold it, after each epoch."""
    rule = EarlyStopping(patience=3, min_delta=0.05)
    values = [1.0, 0.9, 0.88, 0.7, 0.69, 0.68, 0.72, 0.1]
    states = []
    whole = Patience(rule, "val_loss", higher_is_better=False)
    for epoch, value in enumerate(values[:7]):
        states.append(json.dumps(whole.state(), allow_nan=False))
        whole.take(value, epoch)

    assert whole.over
    for epoch, state in enumerate(states):
        resumed = Patience(rule, "val_loss", higher_is_better=False)
        resumed.restore(json.loads(state))
        for later, value in enumerate(values[epoch:7], start=epoch):
            resumed.take(value, later)
        assert resumed.reason == whole.reason
    assert whole.reason == (
        "val_loss did not improve by more than 0.05 for 3 epochs in a row; it was best, 0.7, in epoch 4"
    )


@pytest.mark.parametrize("given", [0, -1, True, 1.5, "3", math.nan, [3]])
def test_a_patience_that_is_no_number_of_epochs(given: Any) -> None:
    """It is refused with what to write."""
    with pytest.raises(InvalidInput, match=r"whole number of epochs from 1|write early_stopping=5"):
        EarlyStopping.of(given)


@pytest.mark.parametrize("options", [{"min_delta": -0.1}, {"min_delta": math.nan}, {"min_delta": True}, {"metric": 3}])
def test_a_rule_that_means_nothing(options: dict[str, Any]) -> None:
    """Each part is checked where it is given."""
    with pytest.raises(InvalidInput):
        EarlyStopping(patience=1, **options)
