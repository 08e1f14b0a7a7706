"""Tree-structured Parzen estimator: the usual choice."""

from __future__ import annotations

from typing import Any

from mlcycle_nb.training.search.samplers._contract import Draw


def make(draw: Draw) -> Any:
    """Return the sampler; trials that still run count as bad ones, so that concurrent trials spread out."""
    import optuna

    return optuna.samplers.TPESampler(seed=draw.trial_seed, constant_liar=True)


PLUGIN = make
