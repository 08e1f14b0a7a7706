"""What a cell finds defined, for code in scripts and modules: ``from mlcycle_nb.training import fit, log``.

The names can be imported anywhere, also where no training runs; used there, they say how to run them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import Refused

if TYPE_CHECKING:
    from mlcycle_nb.training.toolbox import Toolbox

_toolbox: Toolbox | None = None
_make: Callable[[], Toolbox] | None = None


def current() -> Toolbox:
    """Return this worker's toolbox; in a script the process group is formed by the first call.

    Raises
    ------
    Refused
        Outside of a worker process.
    """
    global _toolbox
    if _toolbox is None:
        if _make is None:
            raise Refused(
                "fit, log and the others work in the processes of a training job, and this is none",
                remedy="run it with %%train, or %train MODEL --script FILE",
            )
        _toolbox = _make()
    return _toolbox


def provide(make: Callable[[], Toolbox]) -> None:
    """Say how this worker's toolbox is made; it is made when it is first used."""
    global _make
    _make = make


def made() -> Toolbox | None:
    """Return the toolbox when it was used already."""
    return _toolbox


def fit(*arguments: Any, **options: Any) -> Any:
    """Train a torch module; see `Toolbox.fit`."""
    return current().fit(*arguments, **options)


def log(**metrics: float) -> None:
    """Record metrics of the current step; see `TrainingSession.log`."""
    current().log(**metrics)


def epochs(count: int | None = None, **objects: Any) -> Iterator[int]:
    """Yield the epochs that are left; see `FreeForm.epochs`."""
    return current().epochs(count, **objects)


def batches(loader: Any) -> Iterator[Any]:
    """Yield this process's batches of the current epoch; see `FreeForm.batches`."""
    return current().batches(loader)


def checkpoint(metric: float | None = None, **options: Any) -> None:
    """Save now; see `FreeForm.checkpoint`."""
    current().checkpoint(metric, **options)


def save_model(model: Any, **description: Any) -> None:
    """Hand the trained model over for packaging; see `Toolbox.save_model`."""
    current().save_model(model, **description)


class _Params(Mapping[str, Any]):
    """The values given by ``--param``, of whatever job this process belongs to."""

    def __getitem__(self, name: str) -> Any:
        return current().params[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(current().params, name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a parameter, or `default` when it was not given."""
        return current().params.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(current().params)

    def __len__(self) -> int:
        return len(current().params)

    def __repr__(self) -> str:
        return "params(...)" if _make is None else repr(current().params)


class _Accelerator:
    """This worker's ``accelerate.Accelerator``."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(current().accelerator, name)


params = _Params()
accelerator = _Accelerator()
