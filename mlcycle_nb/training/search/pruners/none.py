"""Every trial runs to its end."""

from __future__ import annotations

from typing import Any


def make(reports: int) -> Any:
    """Return the pruner."""
    import optuna

    return optuna.pruners.NopPruner()


PLUGIN = make
