"""Exporters: what the original model answers, and how it becomes ONNX. One library a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from mlcycle_nb.errors import InvalidInput, Refused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mlcycle_nb.packages.golden import Arrays
    from mlcycle_nb.packages.manifest import Task


class Exporter(Protocol):
    """The adapter of one modelling library."""

    name: str

    def accepts(self, model: Any) -> bool:
        """Tell whether `model` is of this library; imports the library only when the model already did."""
        ...

    def answer(self, model: Any, rows: NDArray[np.generic], task: Task) -> Arrays:
        """Return the original model's outputs: ``label`` and maybe ``probabilities``, or ``value``."""
        ...

    def to_onnx(self, model: Any, rows: NDArray[np.generic], task: Task) -> bytes:
        """Return a graph with the input ``input`` and those outputs; raise CannotExport when that is impossible."""
        ...

    def class_names(self, model: Any) -> tuple[str, ...]:
        """Return the model's own class names, or nothing when it has none."""
        ...


class CannotExport(Refused):
    """A model that ONNX cannot express."""


def exporters() -> tuple[Exporter, ...]:
    """Return all exporters, the most specific first."""
    from mlcycle_nb.packages.exporters.plain_callable import PlainCallable
    from mlcycle_nb.packages.exporters.sklearn_estimator import SklearnEstimator
    from mlcycle_nb.packages.exporters.torch_module import TorchModule

    return (TorchModule(), SklearnEstimator(), PlainCallable())


def exporter_for(model: Any) -> Exporter:
    """Return the exporter of a model."""
    for exporter in exporters():
        if exporter.accepts(model):
            return exporter
    raise InvalidInput(
        "not a model that can be packaged",
        value=type(model).__name__,
        remedy="give a torch Module, a scikit-learn estimator, or a function from an array of rows to an array",
    )


def exporter_named(name: str, *, where: str) -> Exporter:
    """Return the exporter that a manifest names."""
    for exporter in exporters():
        if exporter.name == name:
            return exporter
    raise Refused("the manifest names an unknown way to call the model", value=name, where=where)
