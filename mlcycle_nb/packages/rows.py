"""Rows and targets as plain, finite arrays, whatever the notebook had them in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def as_rows(data: Any, *, what: str, integers: bool = False) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """Return rows as float32 (int64 when `integers` and the data are whole numbers), and their column names.

    Raises
    ------
    InvalidInput
        If there are no rows, values are no numbers, or one is not finite; the first place is named.
    """
    import numpy as np

    names: tuple[str, ...] = ()
    columns = getattr(data, "columns", None)
    if columns is not None and hasattr(data, "to_numpy"):
        names = tuple(str(name) for name in columns)
        data = data.to_numpy()
    elif hasattr(data, "detach"):
        data = data.detach().cpu().numpy()
    array = np.asarray(data)
    if array.dtype.kind not in "fiub":
        raise InvalidInput(f"{what} rows must be numbers", value=str(array.dtype))
    if array.ndim < 2 or not len(array):
        raise InvalidInput(f"{what} must have rows and columns", value=f"shape {list(array.shape)}")
    if array.dtype.kind in "iu" and integers:
        return np.ascontiguousarray(array, dtype=np.int64), names
    rows = np.ascontiguousarray(array, dtype=np.float32)
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        raise InvalidInput(f"{what} row {bad[0][0]}, value {list(bad[0][1:])} is not finite ({len(bad)} in all)")
    return rows, names


def as_targets(labels: Any, *, rows: int) -> NDArray[np.generic] | None:
    """Return labels as one number or text a row, or None when there are none."""
    import numpy as np

    if labels is None:
        return None
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu().numpy()
    array: NDArray[np.generic] = np.asarray(labels)
    if array.shape != (rows,):
        raise InvalidInput(f"reference_labels have shape {list(array.shape)} for {rows} reference rows")
    return array.astype(str) if array.dtype.kind in "OU" else array
