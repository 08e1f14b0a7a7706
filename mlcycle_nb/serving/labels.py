"""Late labels: kept beside the prediction log, joined to predictions by their id."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import InvalidInput, did_you_mean
from mlcycle_nb.files import private_folder, read_small_file, write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

FILE_BYTES = 64 * 1_048_576
TEXT_LIMIT = 200
"""Characters that a prediction id or a label has at most."""
LARGEST_ROW = 2**31 - 1
COLUMNS = ("prediction_id", "label", "row", "at")
FOLD_FILES = 128
"""Small files that are made one; a larger one is left alone, so that no label is written again and again."""
LARGE_BYTES = 16 * 1_048_576
_READ_TRIES = 5


@dataclass(frozen=True, slots=True)
class Label:
    """What one prediction should have been.

    Attributes
    ----------
    row : int
        The row within its request.
    at : datetime, optional
        When it became known, an aware time; by default when it came here. The lag of a label counts to this time.
    """

    prediction_id: str
    row: int
    label: str
    at: datetime | None = None


def read_csv(path: Path) -> list[Label]:
    """Read ``prediction_id,label`` and, for requests of several rows, ``row``; ``at`` says when a label became known.

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
                    remedy=f"{did_you_mean(name, COLUMNS)}known: {', '.join(COLUMNS)}",
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
    return make_label(named["prediction_id"], named["label"], named.get("row", ""), named.get("at", ""), where=where)


def make_label(prediction_id: str, label: str, row: str = "", at: str = "", *, where: str) -> Label:
    """Return a label from texts, however they came.

    Raises
    ------
    InvalidInput
        For an empty id or label, a label that says there is none, a row that is no whole number, or a time that is
        none or has no offset; `where` names the place.
    """
    place, key, text = row.strip() or "0", prediction_id.strip(), label.strip()
    if not (place.isascii() and place.isdigit() and len(place) <= 10 and int(place) <= LARGEST_ROW):
        raise InvalidInput("row is not a whole number", value=row, where=where)
    if not key or not text:
        raise InvalidInput("an empty cell", where=where, remedy="leave rows without a label out")
    for what, given in (("prediction_id", key), ("label", text)):
        if len(given) > TEXT_LIMIT:
            raise InvalidInput(f"{what} has over {TEXT_LIMIT} characters", value=given[:40], where=where)
    if text.lower() in {"nan", "inf", "-inf", "infinity", "-infinity", "none", "null"}:
        raise InvalidInput("this is not a label", value=text, where=where, remedy="leave the row out")
    return Label(key, int(place), text, _moment(at.strip(), where))


def _moment(text: str, where: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput("at is not a time", value=text[:40], where=where, remedy=_TIME) from None
    if moment.tzinfo is None:
        raise InvalidInput("at has no offset from UTC", value=text, where=where, remedy=_TIME)
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # in UTC it would lie before the year 1, or after 9999
        raise InvalidInput("at is not a time", value=text[:40], where=where, remedy=_TIME) from None


_TIME = "write such as 2026-03-01T09:30:00Z"


class LabelStore:
    """The labels of one service, one Arrow file for each time they came, until many are folded into one.

    Parameters
    ----------
    root : Path
        Folder of all labels of the workspace.
    """

    def __init__(self, root: Path, environment: str, model: str) -> None:
        self._folder = root / environment / model
        self._held = False

    def add(self, labels: list[Label], received_at: datetime) -> str:
        """Store labels and return the digest of what was stored; the same labels again change nothing."""
        import pyarrow as pa

        digest = hashlib.sha256(repr([(x.prediction_id, x.row, x.label) for x in labels]).encode()).hexdigest()
        with self.locked():
            names = self.names()
            if any(name.endswith(f"-{digest[:32]}.arrow") for name in names) and self._says(labels):
                return digest
            table = pa.table(
                {
                    "prediction_id": pa.array([x.prediction_id for x in labels], pa.string()),
                    "row": pa.array([x.row for x in labels], pa.int32()),
                    "truth": pa.array([x.label for x in labels], pa.string()),
                    "received_at": pa.array([x.at or received_at for x in labels], pa.timestamp("us", tz="UTC")),
                }
            )
            number = max((int(name.partition("-")[0]) for name in names), default=0) + 1
            self._write(f"{number:08d}-{digest[:32]}.arrow", table)
        return digest

    def _write(self, name: str, table: pa.Table) -> None:
        import pyarrow as pa

        sink = io.BytesIO()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        write_atomically(self._folder / name, sink.getvalue())

    def _says(self, labels: list[Label]) -> bool:
        """Whether these are the labels that count now: one that was corrected and is corrected back is new."""
        table = self.all()
        assert table is not None
        keys = zip(table["prediction_id"].to_pylist(), table["row"].to_pylist(), strict=True)
        known = dict(zip(keys, table["truth"].to_pylist(), strict=True))
        last = {(one.prediction_id, one.row): one.label for one in labels}
        return all(known.get(key) == label for key, label in last.items())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store against other writers; whoever holds it may `add`. It goes with the process that holds it."""
        if self._held:
            yield
            return
        private_folder(self._folder)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Two writers who took the same number would hide one file from readers who remember the last they read.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._held = True
            yield
        finally:
            self._held = False
            os.close(descriptor)

    def names(self, *, after: str = "", until: datetime | None = None) -> list[str]:
        """Return the files of labels by name, in the order in which they came.

        Parameters
        ----------
        after : str
            Only those that came later than this one.
        until : datetime, optional
            Only those that were written before this time of the machine's clock, and no later one of the order.
        """
        there = self._folder.glob("*.arrow") if self._folder.is_dir() else ()
        found = []
        for file in sorted(file for file in there if file.name > after):
            # What seems to come from times to come is older: the clock was set back since.
            if until is not None and until.timestamp() <= file.stat().st_mtime <= time.time() + 1.0:
                break
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

        for attempt in range(_READ_TRIES):
            files = [name for name in self.names(after=after) if until is None or name <= until]
            try:
                tables = [self.read(name) for name in files]
                break
            except FileNotFoundError:  # folded since they were listed
                if attempt == _READ_TRIES - 1:
                    raise
        if not tables:
            return None
        table = pa.concat_tables(tables)
        keys = zip(table["prediction_id"].to_pylist(), table["row"].to_pylist(), strict=True)
        last = {key: position for position, key in enumerate(keys)}
        return table.take(pa.array(sorted(last.values())))

    def fold(self, until: str) -> int:
        """Make one file of the many small ones that came no later than `until`; return how many are gone.

        What stays has the last one's name: who remembers that name, or a later one, sees nothing new. Who remembers an
        earlier one would get some labels twice; the caller knows that there is nobody.
        """
        import pyarrow as pa

        with self.locked():
            names = [name for name in self.names() if name <= until]
            large = [place for place, name in enumerate(names) if (self._folder / name).stat().st_size > LARGE_BYTES]
            names = names[large[-1] + 1 :] if large else names
            if len(names) < FOLD_FILES:
                return 0
            self._write(names[-1], pa.concat_tables([self.read(name) for name in names]))
            # A crash here leaves labels twice, in the same order: the later one still counts.
            for name in names[:-1]:
                (self._folder / name).unlink()
        return len(names) - 1

    def read(self, name: str) -> pa.Table:
        """Return the labels of one file: ``prediction_id, row, truth, received_at``.

        The file is mapped, not copied: a table costs memory while somebody looks at it, and outlives its file.
        """
        import pyarrow as pa

        with pa.memory_map(str(self._folder / name)) as source, pa.ipc.open_file(source) as reader:
            return reader.read_all()


def same_label(one: str, other: str) -> bool:
    """Return whether two labels say the same: equal texts, or equal numbers."""
    if one == other:
        return True
    try:
        return float(one) == float(other)
    except ValueError:
        return False


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
    if value.is_integer() and str(int(value)) in class_names:  # 3.0 is the class 3, as for `same_label`
        return float(class_names.index(str(int(value))))
    return value if math.isfinite(value) else math.nan
