"""Functions and objects with ``predict``: packaged as Python, since there is no graph to take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.packages.exporters import CannotExport

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mlcycle_nb.packages.golden import Arrays
    from mlcycle_nb.packages.manifest import Task


class PlainCallable:
    """Any callable from rows to answers: probabilities (2-D) or label indices (1-D) for a classifier, else values."""

    name = "callable"

    def accepts(self, model: Any) -> bool:
        """Accept functions and objects with ``predict_proba`` or ``predict``."""
        return callable(model) or hasattr(model, "predict")

    def answer(self, model: Any, rows: NDArray[np.generic], task: Task) -> Arrays:
        """Call the model and name what it returned."""
        import numpy as np

        call = model if callable(model) else getattr(model, "predict_proba", None) or model.predict
        result = np.asarray(call(rows))
        if not result.ndim:
            raise InvalidInput("the model answered one number for all rows")
        if task == "regression":
            return {"value": result.astype(np.float32).reshape(len(result), -1)[:, 0] if result.ndim > 1 else
                    result.astype(np.float32)}  # fmt: skip
        if result.ndim == 2:
            return {"label": result.argmax(axis=1).astype(np.int64), "probabilities": result.astype(np.float32)}
        return {"label": result.astype(np.int64)}

    def to_onnx(self, model: Any, rows: NDArray[np.generic], task: Task) -> bytes:
        """Refuse: Python code has no graph."""
        raise CannotExport("a Python function has no graph that ONNX could take", value=type(model).__name__)

    def class_names(self, model: Any) -> tuple[str, ...]:
        """Return nothing: a function does not name its classes."""
        return ()
