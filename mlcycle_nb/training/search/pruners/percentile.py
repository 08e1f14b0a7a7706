"""Stop what is not among the best quarter of the trials before it, at the same report."""

from __future__ import annotations

from typing import Any


def make(reports: int) -> Any:
    """Return the pruner, which lets the first five trials run to their end."""
    import optuna

    return optuna.pruners.PercentilePruner(25.0)


PLUGIN = make
