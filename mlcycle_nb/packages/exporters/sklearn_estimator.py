"""Scikit-learn estimators and pipelines: converted by skl2onnx, labels as class indices."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from mlcycle_nb.packages.exporters import CannotExport

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mlcycle_nb.packages.golden import Arrays
    from mlcycle_nb.packages.manifest import Task

OPSET = {"": 18, "ai.onnx.ml": 3}


class SklearnEstimator:
    """Adapter of ``sklearn.base.BaseEstimator``."""

    name = "sklearn"

    def accepts(self, model: Any) -> bool:
        """Accept estimators, without importing scikit-learn for anything else."""
        return any(
            kind.__module__ == "sklearn.base" and kind.__name__ == "BaseEstimator" for kind in type(model).__mro__
        )

    def answer(self, model: Any, rows: NDArray[np.generic], task: Task) -> Arrays:
        """Return what ``predict`` (and ``predict_proba``) give, labels as indices into ``classes_``."""
        import numpy as np

        table = _table(model, rows)
        predicted = np.asarray(model.predict(table))
        if task == "regression":
            values = predicted.astype(np.float32)
            return {"value": values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values}
        answers: Arrays = {"label": np.searchsorted(np.asarray(model.classes_), predicted).astype(np.int64)}
        if hasattr(model, "predict_proba"):
            answers["probabilities"] = np.asarray(model.predict_proba(table)).astype(np.float32)
        return answers

    def to_onnx(self, model: Any, rows: NDArray[np.generic], task: Task) -> bytes:
        """Convert the estimator; its outputs get the names of the task."""
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType

        from mlcycle_nb.packages.exporters.graph_edit import finish

        takes = [("input", FloatTensorType([None, *rows.shape[1:]]))]
        options = {id(model): {"zipmap": False}} if hasattr(model, "predict_proba") else None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                converted = to_onnx(model, initial_types=takes, options=options, target_opset=OPSET)
        except Exception as failure:  # converters raise whatever they meet, from a tree of their own to plain KeyError
            raise CannotExport(f"skl2onnx cannot convert this estimator: {_first_line(failure)}") from failure
        outputs = [value.name for value in converted.graph.output]
        if task == "regression":
            _flatten_values(converted.graph, outputs[0])
            return finish(converted, rename={})
        _index_labels(converted, outputs[0], model.classes_)
        if hasattr(model, "predict_proba"):
            return finish(converted, rename={outputs[1]: "probabilities"})
        from mlcycle_nb.packages.exporters.graph_edit import drop_output

        for name in outputs[1:]:
            drop_output(converted.graph, name)
        return finish(converted, rename={})

    def class_names(self, model: Any) -> tuple[str, ...]:
        """Return ``classes_`` as text."""
        return tuple(str(name) for name in getattr(model, "classes_", ()))


def _table(model: Any, rows: NDArray[np.generic]) -> Any:
    names = getattr(model, "feature_names_in_", None)
    if names is None:
        return rows
    import pandas as pd

    return pd.DataFrame(rows, columns=list(names))


def _index_labels(converted: Any, output: str, classes: Any) -> None:
    """Replace the label output by the index of the class, under the name ``label``."""
    import numpy as np
    from onnx import TensorProto, helper

    from mlcycle_nb.packages.exporters.graph_edit import drop_output, rename_output

    graph, names = converted.graph, np.asarray(classes)
    rename_output(graph, output, "label_of_class")
    drop_output(graph, "label_of_class")
    # A boolean classifier's graph gives 0 and 1 as int64, like any whole numbers.
    whole = names.dtype.kind in "iub"
    if whole and np.array_equal(names.astype(np.int64), np.arange(len(names))):
        node = helper.make_node("Identity", ["label_of_class"], ["label"])
    else:
        keys: dict[str, list[Any]] = {"values_int64s": list(range(len(names)))}
        keys["keys_int64s" if whole else "keys_strings"] = [int(name) if whole else str(name) for name in names]
        encoder = ("LabelEncoder", ["label_of_class"], ["label"])
        node = helper.make_node(*encoder, domain="ai.onnx.ml", default_int64=-1, **keys)
        for entry in converted.opset_import:
            # The encoder takes lists of keys since version 2 of its operator set.
            if entry.domain == "ai.onnx.ml":
                entry.version = max(entry.version, OPSET["ai.onnx.ml"])
    graph.node.append(node)
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"])
    rest = list(graph.output)
    del graph.output[:]
    graph.output.extend([label, *rest])


def _flatten_values(graph: Any, output: str) -> None:
    """Give the values as ``value``, without a last dimension of one."""
    from onnx import TensorProto, helper, numpy_helper

    from mlcycle_nb.packages.exporters.graph_edit import drop_output, rename_output

    width = graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    rename_output(graph, output, "raw_value")
    drop_output(graph, "raw_value")
    import numpy as np

    flat = width in (0, 1)
    shape = np.asarray([-1] if flat else [-1, width], dtype=np.int64)
    graph.initializer.append(numpy_helper.from_array(shape, "value_shape"))
    graph.node.append(helper.make_node("Cast", ["raw_value"], ["raw_value_fp32"], to=TensorProto.FLOAT))
    graph.node.append(helper.make_node("Reshape", ["raw_value_fp32", "value_shape"], ["value"]))
    dims = ["batch"] if flat else ["batch", width]
    graph.output.append(helper.make_tensor_value_info("value", TensorProto.FLOAT, dims))


def _first_line(failure: Exception) -> str:
    return next((line.strip() for line in str(failure).splitlines() if line.strip()), type(failure).__name__)[:200]
