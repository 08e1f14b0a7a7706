"""CMA-ES: for a few numeric parameters and many trials; needs the package ``cmaes``."""

from __future__ import annotations

from typing import Any

from mlcycle_nb.training.search.samplers._contract import Draw


def make(draw: Draw) -> Any:
    """Return the sampler; choices are drawn by chance."""
    import cmaes  # type: ignore[import-not-found]  # noqa: F401  # here, not when the first trial is drawn, its absence is told
    import optuna

    independent = optuna.samplers.RandomSampler(seed=draw.trial_seed)
    return optuna.samplers.CmaEsSampler(
        seed=draw.trial_seed, independent_sampler=independent, warn_independent_sampling=False
    )


PLUGIN = make
