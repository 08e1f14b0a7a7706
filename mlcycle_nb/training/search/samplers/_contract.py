"""What a sampler plug-in is: a function from a draw to an Optuna sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mlcycle_nb.training.search.space import SpaceEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One trial that is about to be drawn.

    Attributes
    ----------
    seed : int
        Of the whole search.
    trial_seed : int
        Of this trial. A sampler is made anew for each trial, so that a search that was killed draws what an unbroken
        one draws: samplers keep no state of their own, only what they find in the study.
    """

    space: Sequence[SpaceEntry]
    seed: int
    trial_seed: int


class MakeSampler(Protocol):
    """Makes the Optuna sampler of one draw; raises ModuleNotFoundError when a package is missing."""

    def __call__(self, draw: Draw) -> Any: ...
