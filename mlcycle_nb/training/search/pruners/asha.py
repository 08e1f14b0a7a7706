"""Asynchronous successive halving: at 1, 2, 4, 8 ... reports the better half goes on."""

from __future__ import annotations

from typing import Any


def make(reports: int) -> Any:
    """Return the pruner."""
    import optuna

    return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)


PLUGIN = make
