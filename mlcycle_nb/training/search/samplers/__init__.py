"""Samplers: one plug-in a file, a function that makes an Optuna sampler. Listing them imports none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlcycle_nb.plugins import Registry

if TYPE_CHECKING:
    from mlcycle_nb.training.search.samplers._contract import MakeSampler

SAMPLERS: Registry[MakeSampler] = Registry(
    package="mlcycle_nb.training.search.samplers", group="mlcycle_nb.samplers", what="sampler", extra="search"
)
