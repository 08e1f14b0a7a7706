"""The prediction log of one version as a sequence of named segments, whatever files they lie in by now.

A replica writes small Arrow files; a later pass merges some of them into one Parquet file that names what it
replaces and how many rows each had. Names carry the writer's process id and a number that counts up in it, so what
has been read is remembered in a few numbers for each writer, and a clock that was set back cannot hide new rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlcycle_nb.serving.prediction_reader import REPLACES, SEGMENT_ROWS, read_segment
from mlcycle_nb.serving.prediction_segments import COMPACTED, SEGMENT

if TYPE_CHECKING:
    import pyarrow as pa

_NAME = re.compile(r"(\d{1,20})-(\d+)-(\d+)\.arrow")
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows that were written together; `file` holds them from row `offset` on."""

    name: str
    file: Path
    offset: int
    rows: int | None  # None: all of the file


@dataclass(frozen=True, slots=True)
class Mark:
    """What has been read of one writer: all segments up to this number that are not younger than this time."""

    writer: int
    number: int
    time_ns: int


def parse(name: str) -> Mark | None:
    """Return writer, number and time of a segment's name; None when it is none of ours."""
    match = _NAME.fullmatch(name)
    return Mark(int(match[2]), int(match[3]), int(match[1])) if match else None


def is_read(name: str, marks: Iterable[Mark]) -> bool:
    """Return whether a segment has been read before."""
    own = parse(name)
    if own is None:
        return True
    return any(m.writer == own.writer and own.number <= m.number and own.time_ns <= m.time_ns for m in marks)


def mark_read(name: str, marks: Sequence[Mark]) -> tuple[Mark, ...]:
    """Return the marks with this segment added.

    A writer's numbers only grow. A number that does not belongs to a later process with the same id, which gets a
    mark of its own.
    """
    own = parse(name)
    if own is None or is_read(name, marks):
        return tuple(marks)
    followed = [m for m in marks if m.writer == own.writer and m.number < own.number]
    last = max(followed, key=lambda m: m.time_ns, default=None)
    if last is None:
        return (*marks, own)
    grown = Mark(own.writer, own.number, max(own.time_ns, last.time_ns))
    return tuple(grown if m is last else m for m in marks)


def listing(folder: Path) -> list[Segment]:
    """Return all segments of a version, oldest name first; none when the folder does not exist."""
    for _ in range(_ATTEMPTS):
        try:
            return _listing(folder)
        except FileNotFoundError:
            continue  # a merge took a file away between the listing and the opening
    return []


def _listing(folder: Path) -> list[Segment]:
    if not folder.is_dir():
        return []
    names = sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))
    found: dict[str, Segment] = {}
    for name in names:
        if name.endswith(COMPACTED):
            for segment in _merged(folder / name):
                found[segment.name] = segment
    for name in names:
        if name.endswith(SEGMENT) and name not in found:
            found[name] = Segment(name, folder / name, 0, None)
    return [found[name] for name in sorted(found)]


_merged_cache: dict[tuple[str, int], list[Segment]] = {}


def _merged(file: Path) -> list[Segment]:
    # A merged file never changes, and its footer is read twice a second otherwise.
    key = (str(file), file.stat().st_ino)
    if key not in _merged_cache:
        import pyarrow.parquet as pq

        metadata = pq.read_schema(file).metadata or {}
        names = json.loads(metadata.get(REPLACES, b"[]"))
        counts = json.loads(metadata.get(SEGMENT_ROWS, b"[]"))
        segments, offset = [], 0
        for name, rows in zip(names, counts, strict=True):
            segments.append(Segment(name, file, offset, rows))
            offset += rows
        if len(_merged_cache) > 10_000:
            _merged_cache.clear()
        _merged_cache[key] = segments
    return _merged_cache[key]


def served_rows(segment: Segment) -> int:
    """Return how many rows of a segment answered a caller: mirrored ones do not count."""
    import pyarrow.compute as pc

    return int(pc.sum(served_mask(read(segment, columns=["mirrored"])).cast("int64")).as_py() or 0)


def served_mask(table: pa.Table) -> pa.ChunkedArray:
    """Return which rows answered a caller."""
    import pyarrow.compute as pc

    return pc.invert(table.column("mirrored"))


def read_served(segment: Segment) -> pa.Table:
    """Return the rows of a segment that answered a caller, in stored order."""
    table = read(segment)
    return table.filter(served_mask(table))


def read(segment: Segment, *, columns: list[str] | None = None) -> pa.Table:
    """Return the rows of a segment, in stored order."""
    import pyarrow.parquet as pq

    if segment.rows is None:
        table = read_segment(segment.file)
        return table if columns is None else table.select(columns)
    table = pq.read_table(segment.file, columns=columns).replace_schema_metadata(None)
    return table.slice(segment.offset, segment.rows)
