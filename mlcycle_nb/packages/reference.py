"""The reference window: the rows that later traffic is compared with, one column a feature, as Parquet."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from mlcycle_nb.errors import InvalidInput, Refused

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

REFERENCE_NAME = "reference.parquet"
REFERENCE_ROWS = 10_000
REFERENCE_FEATURES = 4096
PREDICTION = "prediction"
LABEL = "label"


def window_rows(count: int) -> NDArray[np.int64]:
    """Return which of `count` rows to keep: all, or an even draw that is the same every time."""
    import numpy as np

    if count <= REFERENCE_ROWS:
        return np.arange(count, dtype=np.int64)
    return np.sort(np.random.default_rng(0).choice(count, REFERENCE_ROWS, replace=False)).astype(np.int64)


def pack(
    rows: NDArray[np.generic],
    feature_names: tuple[str, ...],
    predictions: NDArray[np.generic],
    labels: NDArray[np.generic] | None,
) -> bytes:
    """Return the window as Parquet bytes; models with too many features keep predictions and labels only."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, pa.Array] = {}
    flat = rows.reshape(len(rows), -1)
    if flat.shape[1] <= REFERENCE_FEATURES:
        for position, name in enumerate(feature_names):
            columns[name] = pa.array(flat[:, position])
    for reserved in (PREDICTION, LABEL):
        if reserved in columns:
            raise InvalidInput("a feature may not have this name in a reference window", value=reserved)
    columns[PREDICTION] = pa.array(predictions) if predictions.ndim == 1 else pa.array(list(predictions))
    if labels is not None:
        columns[LABEL] = pa.array(labels)
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd", write_statistics=True)
    return sink.getvalue()


def unpack(content: bytes, *, where: str) -> pa.Table:
    """Read a window back."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as failure:
        raise Refused(f"the reference window cannot be read: {str(failure).splitlines()[0]}", where=where) from None
