"""Every combination once; each entry of the space needs a finite number of values."""

from __future__ import annotations

from typing import Any

from mlcycle_nb.training.search.samplers._contract import Draw


def make(draw: Draw) -> Any:
    """Return the sampler."""
    import optuna

    # The order is shuffled by the seed, which has to be the same for all trials.
    return optuna.samplers.GridSampler({entry.name: list(entry.values or ()) for entry in draw.space}, seed=draw.seed)


PLUGIN = make
