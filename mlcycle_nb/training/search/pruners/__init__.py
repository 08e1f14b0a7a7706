"""Pruners: one plug-in a file, a function that makes an Optuna pruner. Listing them imports none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlcycle_nb.plugins import Registry

if TYPE_CHECKING:
    from mlcycle_nb.training.search.pruners._contract import MakePruner

PRUNERS: Registry[MakePruner] = Registry(
    package="mlcycle_nb.training.search.pruners", group="mlcycle_nb.pruners", what="pruner", extra="search"
)
