"""Reference windows and windows of traffic as columns of numbers, made alike so that they can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlcycle_nb.monitoring.detectors._contract import Floats
from mlcycle_nb.monitoring.judge import ALL_NUMERIC, DATA, JOINT, PREDICTION, Column, joint_members
from mlcycle_nb.packages import load_runtime
from mlcycle_nb.packages.reference import PREDICTION as PREDICTED

if TYPE_CHECKING:
    import pyarrow as pa

    from mlcycle_nb.packages import Package

FEW_VALUES = 5
"""A column of whole numbers with at most this many different ones is taken for categories."""
_BATCH = 1024


def reference_columns(package: Package, categorical: Sequence[str] = ()) -> list[Column]:
    """Return the reference window of a package as columns: features, then what the model says on them."""
    table = package.reference()
    numbers = package.signature.inputs[0].numpy_name
    columns = []
    for name in package.feature_names:
        if name in table.column_names:
            values = _numbers(table.column(name), numbers)
            kind = "categorical" if name in categorical or _looks_categorical(values) else "numeric"
            columns.append(Column(name, DATA, kind, values))
    return [*columns, *_reference_predictions(package, table, columns)]


def _reference_predictions(package: Package, table: pa.Table, features: Sequence[Column]) -> list[Column]:
    columns = []
    predicted = table.column(PREDICTED) if PREDICTED in table.column_names else None
    if predicted is not None and _is_number(predicted):
        if package.task == "classification":
            columns.append(Column("label", PREDICTION, "categorical", _numbers(predicted, "float64")))
        else:
            output = package.signature.output("value")
            columns.append(
                Column("value", PREDICTION, "numeric", _numbers(predicted, output.numpy_name if output else "float64"))
            )
    # Probabilities are not in the window; a graph can be asked for them, and asking one runs no foreign code.
    whole = len(features) == package.signature.inputs[0].values_per_row
    if package.format == "onnx" and package.signature.output("probabilities") is not None and whole:
        columns.append(Column("confidence", PREDICTION, "numeric", _reference_confidence(package, features)))
    return columns


def _reference_confidence(package: Package, features: Sequence[Column]) -> Floats:
    takes = package.signature.inputs[0]
    rows = np.column_stack([column.values for column in features]).astype(takes.numpy_name)
    rows = rows.reshape(len(rows), *takes.shape[1:])
    runtime = load_runtime(package)
    best = [
        runtime.predict({takes.name: rows[start : start + _BATCH]})["probabilities"].max(axis=1)
        for start in range(0, len(rows), _BATCH)
    ]
    return np.concatenate(best).astype(np.float64)


def window_columns(package: Package, table: pa.Table, reference: Sequence[Column]) -> dict[tuple[str, str], Floats]:
    """Return the rows of a window in the columns of `reference`; what the log lacks is left out."""
    columns: dict[tuple[str, str], Floats] = {}
    if not len(table):
        return columns
    inputs = _matrix(table.column("input"))
    if inputs.shape[1] == len(package.feature_names):
        numbers = package.signature.inputs[0].numpy_name
        for position, name in enumerate(package.feature_names):
            columns[DATA, name] = inputs[:, position].astype(numbers).astype(np.float64)
    for name in ("label", "value"):
        if name in table.column_names and _is_number(table.column(name)):
            columns[PREDICTION, name] = _numbers(table.column(name), "float64")
    if "probabilities" in table.column_names:
        columns[PREDICTION, "confidence"] = _matrix(table.column("probabilities")).max(axis=1)
    members = joint_members(reference)
    if members and all((DATA, member.name) in columns for member in members):
        columns[JOINT, ALL_NUMERIC] = np.column_stack([columns[DATA, member.name] for member in members])
    return columns


def _looks_categorical(values: Floats) -> bool:
    if not len(values) or not np.isfinite(values).all() or (values != np.floor(values)).any():
        return False
    return len(np.unique(values)) <= FEW_VALUES


def _is_number(column: Any) -> bool:
    import pyarrow as pa

    kind = column.type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _numbers(column: Any, numpy_name: str) -> Floats:
    # Rounded to what requests carry: a value that many rows share would else be two values, and look like drift.
    values: npt.NDArray[Any] = column.cast("float64").to_numpy()
    return values.astype(numpy_name).astype(np.float64)


def _matrix(column: Any) -> Floats:
    combined = column.combine_chunks()
    values = combined.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(combined), -1).astype(np.float64)
