"""A Sobol sequence: fills the space more evenly than chance."""

from __future__ import annotations

from typing import Any

from mlcycle_nb.training.search.samplers._contract import Draw


def make(draw: Draw) -> Any:
    """Return the sampler; what a sequence cannot draw, such as choices, is drawn by chance."""
    import optuna

    return optuna.samplers.QMCSampler(
        seed=draw.seed,  # of the scrambling: the same for all trials
        scramble=True,
        independent_sampler=optuna.samplers.RandomSampler(seed=draw.trial_seed),
        warn_independent_sampling=False,
        warn_asynchronous_seeding=False,
    )


PLUGIN = make
