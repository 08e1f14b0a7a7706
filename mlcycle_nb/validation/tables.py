"""Validation data from a table: a data frame in the notebook, or a CSV, Parquet or npz file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import InvalidInput, did_you_mean
from mlcycle_nb.validation.data import ValidationData, read_bytes_once

if TYPE_CHECKING:
    import pandas as pd

COLUMN_LIMIT = 20_000
SUFFIXES = (".npz", ".csv", ".parquet")


def read_file(
    path: Path, *, label: str = "label", groups: Sequence[str] = (), train: Path | None = None
) -> ValidationData:
    """Read a file of rows; `label` and `groups` name columns of a table."""
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return ValidationData.from_bytes(read_bytes_once(path), where=str(path))
    frame = read_table(path)
    learned = read_table(train) if train is not None else None
    return from_frame(frame, label=label, groups=groups, train=learned, where=path.name)


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV or Parquet file; problems are named and bounded, however the bytes look."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pq

    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidInput("cannot tell the kind of file", value=path.name, remedy=f"known: {', '.join(SUFFIXES)}")
    content = read_bytes_once(path)
    if suffix == ".csv" and content.split(b"\n", 1)[0].count(b",") > COLUMN_LIMIT:
        raise InvalidInput(f"over {COLUMN_LIMIT:,} columns", where=path.name)
    try:
        if suffix == ".csv":
            # Without its last line break a header alone is no table to Arrow.
            table = pa_csv.read_csv(io.BytesIO(content if content.endswith(b"\n") else content + b"\n"))
        else:
            table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as failure:
        raise InvalidInput(f"cannot be read: {str(failure).splitlines()[0][:200]}", where=path.name) from None
    if table.num_rows == 0:
        raise InvalidInput("the file has a header and no rows", where=path.name)
    if table.num_columns > COLUMN_LIMIT:
        raise InvalidInput(f"over {COLUMN_LIMIT:,} columns", value=table.num_columns, where=path.name)
    names = table.column_names
    double = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if double is not None:
        raise InvalidInput("two columns have the same name", value=double, where=path.name)
    return table.to_pandas()


def from_frame(
    frame: Any, *, label: str, groups: Sequence[str] = (), train: Any = None, where: str = "data"
) -> ValidationData:
    """Split a data frame into features, labels and groups."""
    columns = [str(column) for column in frame.columns]
    for what, name in (("label", label), *(("group", group) for group in groups)):
        if name not in columns:
            near = did_you_mean(name, columns)
            raise InvalidInput(
                f"{what} column is missing", value=name, where=where, remedy=f"{near}columns: {', '.join(columns[:20])}"
            )
    features = frame.drop(columns=[label, *(group for group in groups if group != label)])
    _refuse_text(features, where)
    learned = None
    if train is not None:
        missing = [column for column in features.columns if column not in train.columns]
        if missing:
            raise InvalidInput("training rows lack a column", value=missing[0], where=where)
        learned = train[list(features.columns)]
        _refuse_drift(features, learned, where)
    return ValidationData(features, frame[label], {group: frame[group] for group in groups}, learned)


def _refuse_text(features: Any, where: str) -> None:
    import pandas as pd

    for name in features.columns:
        column = features[name]
        if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
            continue
        if column.isna().all():
            raise InvalidInput(f"column {name} is empty: all of {len(column)} values are missing", where=where)
        numbers = pd.to_numeric(column, errors="coerce")
        bad = int(numbers.isna().to_numpy().argmax())
        raise InvalidInput(
            f"column {name} is not numeric; first at row {bad}",
            value=str(column.iloc[bad]),
            where=where,
            remedy="encode it as the model expects, or name it with --group",
        )


def _refuse_drift(features: Any, learned: Any, where: str) -> None:
    for name in features.columns:
        now, then = features[name].dtype.kind, learned[name].dtype.kind
        if now != then and {now, then} - set("iuf"):
            raise InvalidInput(
                f"column {name} is {features[name].dtype} here and {learned[name].dtype} in the training rows",
                where=where,
            )
