"""What a search is asked for: checked before anything is stored or started."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from typing import Any, Literal

from mlcycle_nb.errors import InvalidInput, did_you_mean
from mlcycle_nb.training.search.pruners import PRUNERS
from mlcycle_nb.training.search.samplers import SAMPLERS
from mlcycle_nb.training.search.samplers._contract import Draw
from mlcycle_nb.training.search.space import SpaceEntry, grid_size, read_space
from mlcycle_nb.training.submission import TrainingOptions

DEFAULT_TRIALS = 20
MAX_TRIALS = 100_000
_HIGHER_IS_BETTER = ("accuracy", "f1", "precision", "recall", "auc", "r2", "score")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """A search, apart from its cell.

    Attributes
    ----------
    trials : int, optional
        As asked for; None leaves it to the default, or to the search that is continued.
    """

    space: tuple[SpaceEntry, ...]
    trials: int | None
    sampler: str
    pruner: str
    metric: str
    direction: Literal["minimize", "maximize"]
    concurrent: int | None
    max_failures: int
    register: bool
    training: TrainingOptions = field(default_factory=TrainingOptions)

    @property
    def first_trials(self) -> int:
        """How many trials a new search has."""
        size = grid_size(self.space) if self.sampler == "grid" else None
        return self.trials or size or DEFAULT_TRIALS

    def key(self, model: str, cell_digest: str, data_digest: str) -> str:
        """Return what makes two searches the same one: neither how many trials, nor how many at once."""
        parts = [self.training.digest_with(model, cell_digest, data_digest), [astuple(entry) for entry in self.space]]
        parts += [self.sampler, self.pruner, self.metric, self.direction]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def read_request(
    space: Mapping[str, Any] | Sequence[str],
    *,
    trials: int | None = None,
    sampler: str = "tpe",
    pruner: str = "none",
    metric: str = "val_loss",
    direction: str = "auto",
    concurrent: int | None = None,
    max_failures: int = 5,
    register: bool = False,
    **training: Any,
) -> SearchRequest:
    """Check what was asked for.

    Raises
    ------
    InvalidInput
        With the option, the value and the remedy.
    UnknownPlugin, MissingDependency
        For a sampler or pruner that is not known, or whose package is not installed.
    """
    entries = read_space(space)
    if trials is not None:
        _whole("trials", trials, 1, MAX_TRIALS)
    _whole("max_failures", max_failures, 1, MAX_TRIALS)
    if not isinstance(metric, str) or not metric.strip():
        raise InvalidInput("a metric is named by a text", value=metric, where="--metric")
    known = [each.name for each in fields(TrainingOptions)]
    for name in sorted(set(training) - set(known)):
        raise InvalidInput(f"unknown option {name!r}", remedy=did_you_mean(name, [*known, *_OPTIONS]))
    options = TrainingOptions(**training)
    for entry in entries:
        if entry.name in options.params:
            raise InvalidInput(
                f"{entry.name!r} is given a value and searched over", value=str(entry), where="--search",
                remedy="leave out one of the two",
            )  # fmt: skip
    request = SearchRequest(
        space=entries,
        trials=trials,
        sampler=_plugin(sampler),
        pruner=_plugin(pruner),
        metric=metric.strip(),
        direction=_direction(direction, metric.strip()),
        concurrent=concurrent,
        max_failures=max_failures,
        register=register,
        training=options,
    )
    SAMPLERS.load(request.sampler)
    PRUNERS.load(request.pruner)
    if request.sampler == "grid":
        _check_grid(request)
    elif request.sampler == "cmaes":
        _check_numeric(request)
    return request


_OPTIONS = ("trials", "sampler", "pruner", "metric", "direction", "concurrent", "max_failures", "register")


def _check_grid(request: SearchRequest) -> None:
    endless = [str(entry) for entry in request.space if entry.values is None]
    if endless:
        raise InvalidInput(
            "the grid sampler needs finitely many values of each",
            value=endless[0],
            where="--search",
            remedy="write a list, whole numbers, or a step such as 0.0..0.5/0.1; or use --sampler qmc",
        )
    size = grid_size(request.space) or 0
    if request.trials is not None and request.trials > size:
        problem = f"the grid has {size} combinations, and more trials were asked for"
        raise InvalidInput(problem, value=request.trials, where="--trials", remedy=f"give --trials {size}, or none")


def _check_numeric(request: SearchRequest) -> None:
    from mlcycle_nb.errors import MissingDependency

    try:
        SAMPLERS.load("cmaes")(Draw(space=request.space, seed=0, trial_seed=0))
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            f"sampler 'cmaes' needs the package {missing.name!r}", remedy=f"pip install {missing.name}"
        ) from missing


def _direction(direction: str, metric: str) -> Literal["minimize", "maximize"]:
    match direction:
        case "auto":
            return "maximize" if metric.endswith(_HIGHER_IS_BETTER) else "minimize"
        case "minimize" | "min":
            return "minimize"
        case "maximize" | "max":
            return "maximize"
    near = did_you_mean(str(direction), ["minimize", "maximize", "auto"])
    raise InvalidInput(
        "unknown direction", value=direction, where="--direction", remedy=f"{near}use minimize or maximize"
    )


def _plugin(name: object) -> str:
    """Return a plug-in's name as its file spells it; ``successive-halving`` is ``successive_halving``."""
    return str(name).replace("-", "_")


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        where = f"--{name.replace('_', '-')}"
        raise InvalidInput(f"{name} must be a whole number from {low} to {high}", value=value, where=where)
