"""Late labels: kept beside the prediction log, joined to predictions by their id."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import InvalidInput, did_you_mean
from mlcycle_nb.files import private_folder, read_small_file, write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

FILE_BYTES = 64 * 1_048_576
COLUMNS = ("prediction_id", "label", "row")


@dataclass(frozen=True, slots=True)
class Label:
    """What one prediction should have been; `row` is the row within its request."""

    prediction_id: str
    row: int
    label: str


def read_csv(path: Path) -> list[Label]:
    """Read ``prediction_id,label`` and, for requests of several rows, ``row``.

    Raises
    ------
    InvalidInput
        With the line, for a missing or unknown column, an empty cell or a row that is no whole number.
    """
    rows = csv.reader(io.StringIO(read_small_file(path, limit=FILE_BYTES)), strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        for name in header:
            if name not in COLUMNS:
                raise InvalidInput(
                    "unknown column",
                    value=name,
                    where=str(path),
                    remedy=did_you_mean(name, COLUMNS) + "known: prediction_id, label, row",
                )
        for name in COLUMNS[:2]:
            if name not in header:
                raise InvalidInput(f"column {name} is missing", where=str(path))
        labels = []
        for cells in rows:
            if not cells:
                continue
            if len(cells) != len(header):
                raise InvalidInput(f"{len(cells)} cells, the header has {len(header)}", where=f"{path} {rows.line_num}")
            named = dict(zip(header, cells, strict=True))
            labels.append(_label(named, f"{path} line {rows.line_num}"))
    except csv.Error as failure:
        raise InvalidInput(f"not CSV: {failure}", where=f"{path} line {rows.line_num}") from None
    if not labels:
        raise InvalidInput("holds no label", value=str(path))
    return labels


def from_mapping(labels: Mapping[str, Any] | Iterable[tuple[str, int, Any]]) -> list[Label]:
    """Return labels given as ``{prediction_id: label}`` or as ``(prediction_id, row, label)``."""
    triples = [(key, 0, value) for key, value in labels.items()] if isinstance(labels, Mapping) else list(labels)
    found = [
        _label({"prediction_id": key, "row": str(row), "label": _text(value)}, f"labels[{position}]")
        for position, (key, row, value) in enumerate(triples)
    ]
    if not found:
        raise InvalidInput("there is no label", where="labels")
    return found


def _text(value: Any) -> str:
    item = getattr(value, "item", None)  # a numpy number
    plain = item() if callable(item) else value
    return str(int(plain)) if isinstance(plain, bool) else str(plain)


def _label(named: Mapping[str, str], where: str) -> Label:
    row = named.get("row", "0").strip() or "0"
    if not (row.isascii() and row.isdigit()):
        raise InvalidInput("row is not a whole number", value=row, where=where)
    key, label = named["prediction_id"].strip(), named["label"].strip()
    if not key or not label:
        raise InvalidInput("an empty cell", where=where, remedy="leave rows without a label out")
    if label.lower() in {"nan", "inf", "-inf", "none", "null"}:
        raise InvalidInput("this is not a label", value=label, where=where, remedy="leave the row out")
    return Label(key[:200], int(row), label[:200])


class LabelStore:
    """The labels of one service, one Arrow file for each time they came.

    Parameters
    ----------
    root : Path
        Folder of all labels of the workspace.
    """

    def __init__(self, root: Path, environment: str, model: str) -> None:
        self._folder = root / environment / model

    def add(self, labels: list[Label], received_at: datetime) -> str:
        """Store labels and return the digest of what was stored; the same labels again change nothing."""
        import pyarrow as pa

        digest = hashlib.sha256(repr([(x.prediction_id, x.row, x.label) for x in labels]).encode()).hexdigest()
        private_folder(self._folder)
        if list(self._folder.glob(f"*-{digest[:32]}.arrow")):
            return digest
        table = pa.table(
            {
                "prediction_id": pa.array([x.prediction_id for x in labels], pa.string()),
                "row": pa.array([x.row for x in labels], pa.int32()),
                "truth": pa.array([x.label for x in labels], pa.string()),
                "received_at": pa.array([received_at] * len(labels), pa.timestamp("us", tz="UTC")),
            }
        )
        sink = io.BytesIO()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        number = len(os.listdir(self._folder)) + 1
        write_atomically(self._folder / f"{number:08d}-{digest[:32]}.arrow", sink.getvalue())
        return digest

    def names(self, *, after: str = "", until: datetime | None = None) -> list[str]:
        """Return the files of labels by name, in the order in which they came; a file never changes.

        Parameters
        ----------
        after : str
            Only those that came later than this one.
        until : datetime, optional
            Only those that were written before this time of the machine's clock, and no later one of the order.
        """
        files = sorted(self._folder.glob("*.arrow")) if self._folder.is_dir() else []
        found = []
        for file in files:
            if until is not None and file.stat().st_mtime >= until.timestamp():
                break
            if file.name > after:
                found.append(file.name)
        return found

    def all(self, *, after: str = "", until: str | None = None) -> pa.Table | None:
        """Return every label, the later one where two came for one prediction; None when there is none.

        Parameters
        ----------
        after, until : str
            Names of files, as `names` gives them: only labels that came later than one, and no later than the other.
        """
        import pyarrow as pa

        files = [self._folder / name for name in self.names(after=after) if until is None or name <= until]
        if not files:
            return None
        tables = []
        for file in files:
            with pa.OSFile(str(file), "rb") as source, pa.ipc.open_file(source) as reader:
                tables.append(reader.read_all())
        table = pa.concat_tables(tables)
        keys = zip(table["prediction_id"].to_pylist(), table["row"].to_pylist(), strict=True)
        last = {key: position for position, key in enumerate(keys)}
        return table.take(pa.array(sorted(last.values())))


def as_index(text: str, class_names: tuple[str, ...]) -> float:
    """Return a label as the number that predictions are logged as; NaN when it is no class and no number.

    A class name comes before a number: a model of the digits 3 and 5 has the classes ``3`` and ``5`` at 0 and 1.
    """
    if text in class_names:
        return float(class_names.index(text))
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
