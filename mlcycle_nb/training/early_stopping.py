"""Ending training when a metric has stopped getting better; what it remembers is part of each checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlcycle_nb.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStopping:
    """When `fit` ends before its last epoch.

    Parameters
    ----------
    patience : int
        Epochs in a row without an improvement after which training ends, from 1.
    min_delta : float
        What the metric has to change by to count as improved, in the metric's own unit; 0 by default.
    metric : str, optional
        The metric that the best checkpoints are chosen by, unless another is named.
    """

    patience: int
    min_delta: float = 0.0
    metric: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.patience, bool) or not isinstance(self.patience, int) or self.patience < 1:
            raise InvalidInput("the patience of early stopping is a whole number of epochs from 1", value=self.patience)
        delta = self.min_delta
        if isinstance(delta, bool) or not isinstance(delta, int | float) or not math.isfinite(delta) or delta < 0:
            raise InvalidInput("min_delta must be a finite number from 0", value=delta)
        if self.metric is not None and (not isinstance(self.metric, str) or not self.metric):
            raise InvalidInput("metric must be a metric's name, such as val_loss", value=self.metric)

    @classmethod
    def of(cls, given: int | EarlyStopping | None) -> EarlyStopping | None:
        """Return what was given to `fit`: nothing, a patience, or the whole rule."""
        if given is None or isinstance(given, cls):
            return given
        if isinstance(given, bool) or not isinstance(given, int):
            raise InvalidInput(
                "early_stopping must be a number of epochs or an EarlyStopping",
                value=given,
                remedy="write early_stopping=5 or early_stopping=EarlyStopping(patience=5, min_delta=0.001)",
            )
        return cls(patience=given)


class Patience:
    """Counts the epochs since a metric was best.

    Parameters
    ----------
    rule : EarlyStopping
        What counts as improved, and how many epochs are waited for.
    metric : str
        Name of the metric that is looked at.
    higher_is_better : bool
        Which way improvement goes.
    """

    def __init__(self, rule: EarlyStopping, metric: str, *, higher_is_better: bool) -> None:
        self.rule, self.metric, self._sign = rule, metric, 1.0 if higher_is_better else -1.0
        self.best: float | None = None
        self.best_epoch = 0  # counted from 1
        self.waited = 0

    @property
    def over(self) -> bool:
        """Whether training ends now."""
        return self.waited >= self.rule.patience

    @property
    def reason(self) -> str:
        """Say in one line why training ended."""
        epochs = "epoch" if self.waited == 1 else "epochs in a row"
        best = "was never finite" if self.best is None else f"was best, {self.best:.4g}, in epoch {self.best_epoch}"
        by = f" by more than {self.rule.min_delta:g}" if self.rule.min_delta else ""
        return f"{self.metric} did not improve{by} for {self.waited} {epochs}; it {best}"

    def take(self, value: float, epoch: int) -> None:
        """Take in the metric of `epoch`, counted from 0; a value that is not finite is no improvement."""
        best = self.best
        better = best is None or (value - best) * self._sign > self.rule.min_delta
        if math.isfinite(value) and better:
            self.best, self.best_epoch, self.waited = value, epoch + 1, 0
        else:
            self.waited += 1

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint has to hold."""
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go on from what a checkpoint held."""
        if state is not None:
            self.best, self.best_epoch, self.waited = state["best"], state["best_epoch"], state["waited"]
