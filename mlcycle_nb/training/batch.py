"""What a batch is: how many rows it has, and how it goes through a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlcycle_nb.errors import InvalidInput

_TARGET_KEYS = ("labels", "label", "target", "targets", "y")


def default_forward(model: Any, batch: Any) -> tuple[Any, Any]:
    """Return output and target of a batch ``(inputs, ..., target)`` or ``{"...": inputs, "labels": target}``."""
    if isinstance(batch, Mapping):
        for key in _TARGET_KEYS:
            if key in batch:
                return model(**{name: part for name, part in batch.items() if name != key}), batch[key]
        raise InvalidInput(
            "a batch has no target", value=sorted(map(str, batch)), remedy=f"name it one of {', '.join(_TARGET_KEYS)}"
        )
    if isinstance(batch, list | tuple) and len(batch) >= 2:
        return model(*batch[:-1]), batch[-1]
    raise InvalidInput(
        "a batch is not (inputs, target)",
        value=type(batch).__name__,
        remedy="pass forward=lambda model, batch: (output, target)",
    )


def default_metrics(output: Any, target: Any) -> dict[str, Callable[[Any, Any], Any]]:
    """Return accuracy when output and target are those of a classifier, else nothing."""
    classes = getattr(output, "ndim", 0) == 2 and output.shape[1] > 1
    whole = hasattr(target, "is_floating_point") and not target.is_floating_point() and target.ndim == 1
    return {"accuracy": accuracy} if classes and whole else {}


def accuracy(output: Any, target: Any) -> Any:
    """Return the share of rows whose largest output is the target."""
    return (output.argmax(dim=1) == target).double().mean()


def sample_count(batch: Any) -> int:
    """Return the number of rows of a batch."""
    part = batch
    while isinstance(part, Mapping | list | tuple):
        if not part:
            return 0
        part = next(iter(part.values())) if isinstance(part, Mapping) else part[0]
    shape = getattr(part, "shape", None)
    return int(shape[0]) if shape is not None and len(shape) else 1
