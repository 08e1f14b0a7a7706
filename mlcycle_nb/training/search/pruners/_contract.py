"""What a pruner plug-in is: a function from the length of a trial to an Optuna pruner."""

from __future__ import annotations

from typing import Any, Protocol


class MakePruner(Protocol):
    """Makes the Optuna pruner of a search whose trials report about `reports` times: once an epoch."""

    def __call__(self, reports: int) -> Any: ...
