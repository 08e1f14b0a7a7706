"""Every value by chance, whatever came before."""

from __future__ import annotations

from typing import Any

from mlcycle_nb.training.search.samplers._contract import Draw


def make(draw: Draw) -> Any:
    """Return the sampler."""
    import optuna

    return optuna.samplers.RandomSampler(seed=draw.trial_seed)


PLUGIN = make
