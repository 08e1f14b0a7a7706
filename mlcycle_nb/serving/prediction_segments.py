"""Segments of the prediction log: their names, their columns, and how batches become one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.references import check_name

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlcycle_nb.serving.prediction_log import LoggedBatch

SEGMENT = ".arrow"
COMPACTED = ".parquet"
_sequence = count(1)


def version_folder(root: Path, environment: str, model: str, version: int) -> Path:
    """Return the folder of one version's predictions."""
    return root / check_name(environment, "environment") / check_name(model, "model") / f"v{int(version)}"


def write_segment(folder: Path, batches: Sequence[LoggedBatch], version: int) -> Path:
    """Write batches as one Arrow file: a temporary name, then a rename, so that readers meet whole files only."""
    import pyarrow as pa

    table = to_table(batches, version)
    name = f"{batches[0].time_ns:020d}-{os.getpid()}-{next(_sequence):06d}{SEGMENT}"
    staged = folder / f".{name}.tmp"
    try:
        # Not synced: losing the last half second to a power cut is within the log's promise.
        with pa.OSFile(str(staged), "wb") as sink:
            encode(table, sink)
        staged.chmod(0o600)
        target = folder / name
        os.replace(staged, target)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    return target


def encode(table: pa.Table, sink: Any) -> None:
    """Write a table as an Arrow file into an open sink."""
    import pyarrow as pa

    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def to_table(batches: Sequence[LoggedBatch], version: int) -> pa.Table:
    """Return one row a prediction; values are handed over as arrays, without a Python object each."""
    import numpy as np
    import pyarrow as pa

    calls = [call for batch in batches for call in batch.calls]
    rows = np.asarray([call.rows for call in calls], dtype=np.int64)
    total = int(rows.sum())
    per_row = np.repeat(np.arange(len(calls)), rows)
    starts = np.repeat(np.cumsum(rows) - rows, rows)
    stamps = np.repeat(
        np.asarray([batch.time_ns // 1000 for batch in batches], dtype=np.int64), [len(b.inputs) for b in batches]
    )
    latencies = np.asarray([call.latency_ms for call in calls], dtype=np.float32)
    mirrored = np.asarray([call.mirrored for call in calls], dtype=bool)
    ids, consumers = [call.prediction_id for call in calls], [call.consumer for call in calls]
    if total != len(calls):
        ids, consumers = [ids[index] for index in per_row], [consumers[index] for index in per_row]
    columns: dict[str, pa.Array] = {
        "prediction_id": _texts(ids),
        "time": pa.Array.from_buffers(pa.timestamp("us", tz="UTC"), total, [None, pa.py_buffer(stamps)]),
        "version": _numbers(np.full(total, version, dtype=np.int32)),
        "consumer": _texts(consumers),
        "mirrored": _flags(mirrored[per_row]),
        "row": _numbers((np.arange(total) - starts).astype(np.int32)),
        "input": _lists(np.concatenate([batch.inputs for batch in batches])),
    }
    for name in batches[0].outputs:
        array = np.concatenate([batch.outputs[name] for batch in batches])
        columns[name] = _numbers(array) if array.ndim == 1 else _lists(array, fixed=False)
    columns["latency_ms"] = _numbers(latencies[per_row])
    return pa.Table.from_arrays(list(columns.values()), names=list(columns))


# Arrays are made from buffers, and repeated by numpy: pyarrow.array imports pandas (55 MB), `take` all compute kernels
# (8 MB), and a replica has no other use for either.


def _numbers(array: NDArray[np.generic]) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    if array.dtype.kind == "b":
        return _flags(array)
    values = np.ascontiguousarray(array)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def _flags(array: NDArray[np.generic]) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    bits = np.packbits(array.astype(bool), bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(array), [None, pa.py_buffer(bits)])


def _texts(texts: list[str]) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    encoded = [text.encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int32)
    np.cumsum([len(item) for item in encoded], out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers)


def _lists(array: NDArray[np.generic], *, fixed: bool = True) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    flat = np.ascontiguousarray(array).reshape(len(array), -1)
    values = _numbers(flat.ravel())
    if fixed:
        return pa.FixedSizeListArray.from_arrays(values, flat.shape[1])
    offsets = np.arange(len(flat) + 1, dtype=np.int32) * flat.shape[1]
    return pa.ListArray.from_arrays(_numbers(offsets), values)
