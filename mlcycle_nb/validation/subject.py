"""What checks look at: one opened package, the data, and the package's answers, computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.validation.data import ValidationData

if TYPE_CHECKING:
    from mlcycle_nb.packages import Package
    from mlcycle_nb.packages.formats import Runtime

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
BATCH_ROWS = 1024


@dataclass(frozen=True)
class Subject:
    """One model version under examination.

    Parameters
    ----------
    package : Package
        The registered package, opened.
    registered_digest : str
        What the registry says its digest is.
    data : ValidationData
    seed : int
        All randomness of checks comes from it.
    open_runtime : callable
        Loads the model, on first use.
    time_requests : callable
        Sends one-row requests to a real replica and returns each one's milliseconds.
    verify_package : callable
        Reads every byte of the package and raises what is wrong.
    """

    package: Package
    registered_digest: str
    data: ValidationData
    open_runtime: Callable[[], Runtime]
    time_requests: Callable[[npt.NDArray[np.generic], int], Sequence[float]]
    verify_package: Callable[[], None]
    seed: int = 0
    workspace: Path | None = field(default=None)

    @cached_property
    def _runtime(self) -> Runtime:
        return self.open_runtime()

    def rng(self, salt: int = 0) -> np.random.Generator:
        """Return a generator of this validation's seed."""
        return np.random.default_rng([self.seed, salt])

    @cached_property
    def features(self) -> npt.NDArray[np.generic]:
        """The rows in the type and shape of the model's input."""
        return self.as_input(self.data.features)

    def as_input(self, rows: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Return rows as the input tensor; another number of features is refused."""
        spec = self.package.signature.inputs[0]
        if rows.shape[1:] != tuple(spec.shape[1:]):
            if int(np.prod(rows.shape[1:])) != spec.values_per_row:
                raise InvalidInput(
                    f"the data has rows of {list(rows.shape[1:])}, the model takes {list(spec.shape[1:])}",
                    remedy="give the columns the model was trained with, in its order",
                )
            rows = rows.reshape(len(rows), *spec.shape[1:])
        names, own = self.data.feature_names, self.package.feature_names
        if names and own and set(names) == set(own) and names != own:
            raise InvalidInput(
                "the columns of the data are in another order than the model's features", remedy="reorder them"
            )
        return np.ascontiguousarray(rows, dtype=spec.numpy_name)

    def predict(self, rows: npt.NDArray[np.generic]) -> dict[str, npt.NDArray[np.generic]]:
        """Return the model's answers for `rows`, which are already input tensors."""
        name = self.package.signature.inputs[0].name
        parts = [self._runtime.predict({name: rows[i : i + BATCH_ROWS]}) for i in range(0, len(rows), BATCH_ROWS)]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    @cached_property
    def answers(self) -> dict[str, npt.NDArray[np.generic]]:
        """The model's answers for all rows."""
        return self.predict(self.features)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names by label index."""
        if self.package.task != "classification":
            raise InvalidInput("this check needs a classifier", value=self.package.task)
        return self.package.class_names

    @cached_property
    def labels(self) -> Ints:
        """True label indices."""
        return label_indices(self.data.labels, self.classes)

    @cached_property
    def predicted(self) -> Ints:
        """Predicted label indices."""
        return self.label_of(self.answers)

    def label_of(self, answers: dict[str, npt.NDArray[np.generic]]) -> Ints:
        """Return label indices out of a classifier's answers."""
        return np.asarray(answers["label"], dtype=np.int64).reshape(-1)

    @cached_property
    def probabilities(self) -> Floats | None:
        """Predicted probabilities, shape (n, classes); None when the model gives none."""
        found = self.answers.get("probabilities")
        return None if found is None else np.asarray(found, dtype=np.float64)

    @cached_property
    def confusion(self) -> Ints:
        """Counts, shape (classes, classes): true label by predicted label."""
        size = len(self.classes)
        if self.predicted.min() < 0 or self.predicted.max() >= size:
            raise InvalidInput("the model answers with a label that is no class", value=int(self.predicted.max()))
        table = np.zeros((size, size), dtype=np.int64)
        np.add.at(table, (self.labels, self.predicted), 1)
        return table


def label_indices(labels: npt.NDArray[np.generic], classes: tuple[str, ...]) -> Ints:
    """Return labels as class indices: numbers are indices already, text is a class name."""
    if labels.dtype.kind == "U":
        known = {name: index for index, name in enumerate(classes)}
        unknown = sorted(set(labels.tolist()) - known.keys())
        if unknown:
            raise InvalidInput(
                "labels name a class that the model does not have",
                value=unknown[0],
                remedy=f"known: {', '.join(classes[:20])}",
            )
        return np.array([known[name] for name in labels.tolist()], dtype=np.int64)
    indices = labels.astype(np.int64)
    if (indices != labels).any():
        raise InvalidInput("labels of a classifier must be whole numbers or class names")
    if indices.min() < 0 or indices.max() >= len(classes):
        raise InvalidInput(
            f"labels must be class indices from 0 to {len(classes) - 1}",
            value=int(indices.max() if indices.min() >= 0 else indices.min()),
        )
    return indices
