"""Reads the prediction log back: every row once, although segments are merged and requests retried meanwhile."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import InvalidInput, StoreError
from mlcycle_nb.references import check_name
from mlcycle_nb.serving.prediction_segments import COMPACTED, SEGMENT

if TYPE_CHECKING:
    import pyarrow as pa

REPLACES = b"mlcycle.replaces"
SEGMENT_ROWS = b"mlcycle.segment_rows"  # rows of each of them, in the same order
ATTEMPTS = 5
_KEYS = ("prediction_id", "time", "version", "mirrored", "row")


def read_predictions(
    folder_root: Path,
    environment: str,
    model: str,
    *,
    version: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    mirrored: bool | None = False,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Return logged predictions, oldest first, each prediction once.

    Parameters
    ----------
    folder_root : Path
        Folder of all prediction logs of the workspace.
    environment, model : str
        Whose predictions.
    version : int, optional
        One version; all when not given.
    since, until : datetime, optional
        Aware times; `since` is part of the window, `until` is not.
    mirrored : bool or None
        False for answers that were served, True for mirrored requests, None for both.
    columns : sequence of str, optional
        Only these, and those that name a row (``prediction_id, time, version, mirrored, row``), as far as there are
        any: inputs are most of a log, and are then not read at all.

    Returns
    -------
    pyarrow.Table
        ``prediction_id, time, version, consumer, mirrored, row, input``, the outputs
        (``label`` and ``probabilities``, or ``value``) and ``latency_ms``. Without rows, a table without columns.
    """
    import pyarrow as pa

    for moment in (since, until):
        if moment is not None and moment.tzinfo is None:
            raise InvalidInput("times of the prediction log are aware", value=moment)
    base = folder_root / check_name(environment, "environment") / check_name(model, "model")
    pattern = "v*" if version is None else f"v{int(version)}"
    tables = [table for folder in sorted(base.glob(pattern)) for table in _folder_tables(folder, since, columns)]
    if not tables:
        return pa.table({})
    return _once(_filter(_concatenate(tables), since, until, mirrored))


def log_totals(folder_root: Path, environment: str, model: str, version: int) -> dict[str, int]:
    """Return rows written and dropped, and write errors, summed over all replicas a version ever had."""
    return _totals(
        folder_root, environment, model, version, ("written_rows", "dropped_rows", "write_errors", "segments")
    )


def copy_totals(folder_root: Path, environment: str, model: str, version: int) -> tuple[int, int]:
    """Return mirrored requests and their failures, summed over all replicas a version ever had.

    Each replica writes its counts at least twice a second, so a killed one takes at most its last half second of
    requests and failures with it, both alike.
    """
    counts = _totals(folder_root, environment, model, version, ("mirrored_requests", "mirrored_failures"))
    return counts["mirrored_requests"], counts["mirrored_failures"]


def _totals(folder_root: Path, environment: str, model: str, version: int, names: tuple[str, ...]) -> dict[str, int]:
    folder = folder_root / check_name(environment, "environment") / check_name(model, "model") / f"v{int(version)}"
    totals = dict.fromkeys(names, 0)
    for path in folder.glob("stats-*.json"):
        try:
            form = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):  # gone, or cut short by a power cut
            continue
        for key in totals:
            totals[key] += int(form.get(key, 0))
    return totals


def _folder_tables(folder: Path, since: datetime | None, columns: Sequence[str] | None) -> list[pa.Table]:
    for _ in range(ATTEMPTS):
        try:
            return _read_files(folder, since, columns)
        except FileNotFoundError:
            # A merge removed a segment between the listing and the opening: its rows are in the merged file.
            continue
    raise StoreError("the prediction log changes faster than it can be read", where=str(folder))


def _read_files(folder: Path, since: datetime | None, columns: Sequence[str] | None) -> list[pa.Table]:
    import pyarrow.parquet as pq

    files = sorted(item for item in folder.iterdir() if not item.name.startswith("."))
    merged = [item for item in files if item.name.endswith(COMPACTED)]
    replaced: set[str] = set()
    tables = []
    for path in merged:
        with path.open("rb") as stream:
            schema = pq.read_schema(stream)
            replaced |= set(json.loads((schema.metadata or {}).get(REPLACES, b"[]")))
            if since is None or path.stat().st_mtime >= since.timestamp():
                stream.seek(0)
                wanted = None if columns is None else [name for name in schema.names if name in {*_KEYS, *columns}]
                tables.append(pq.read_table(stream, columns=wanted).replace_schema_metadata(None))
    for path in files:
        if not path.name.endswith(SEGMENT) or path.name in replaced:
            continue
        if since is None or path.stat().st_mtime >= since.timestamp():
            table = read_segment(path)
            known = table.column_names
            tables.append(table if columns is None else table.select([n for n in known if n in {*_KEYS, *columns}]))
    return tables


def read_segment(path: Path) -> pa.Table:
    """Return one Arrow segment."""
    import pyarrow as pa

    with pa.OSFile(str(path), "rb") as source, pa.ipc.open_file(source) as reader:
        return reader.read_all()


def _concatenate(tables: list[pa.Table]) -> pa.Table:
    import pyarrow as pa

    if any("input" not in table.column_names for table in tables):
        return pa.concat_tables(tables, promote_options="permissive")
    # By size, not by type: Parquet gives the list's child another name, which is no difference.
    sizes = {getattr(table.schema.field("input").type, "list_size", None) for table in tables}
    if len(sizes) > 1:
        # Versions with other inputs: fixed sizes differ, so all become lists of any length.
        tables = [_with_lists(table) for table in tables]
    return pa.concat_tables(tables, promote_options="permissive")


def _with_lists(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    position = table.schema.get_field_index("input")
    column = table.column("input")
    return table.set_column(position, "input", column.cast(pa.list_(column.type.value_type)))


def _filter(table: pa.Table, since: datetime | None, until: datetime | None, mirrored: bool | None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    keep: Any = None
    moment = pa.timestamp("us", tz="UTC")
    if since is not None:
        keep = pc.greater_equal(table["time"], pa.scalar(since, moment))
    if until is not None:
        before = pc.less(table["time"], pa.scalar(until, moment))
        keep = before if keep is None else pc.and_(keep, before)
    if mirrored is not None:
        chosen = pc.equal(table["mirrored"], mirrored)
        keep = chosen if keep is None else pc.and_(keep, chosen)
    return table if keep is None else table.filter(keep)


def _once(table: pa.Table) -> pa.Table:
    """Sort by time, and keep the first of the rows that a retried request left twice."""
    import numpy as np
    import pyarrow as pa

    table = table.sort_by([("time", "ascending"), ("prediction_id", "ascending"), ("row", "ascending")])
    keys = ["prediction_id", "row", "version", "mirrored"]
    numbered = table.select(keys).append_column("position", pa.array(np.arange(len(table))))
    first = numbered.group_by(keys, use_threads=False).aggregate([("position", "min")])
    if len(first) == len(table):
        return table
    return table.take(pa.array(np.sort(first["position_min"].to_numpy())))
