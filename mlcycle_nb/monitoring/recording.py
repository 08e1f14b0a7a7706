"""Recorded traffic: the service's own prediction log, or a file with its columns, as the segments that windows take."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.deployment.recorded import read_file
from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.monitoring.segments import listing, parse, read, served_mask
from mlcycle_nb.monitoring.windows import Stream, arrivals
from mlcycle_nb.references import parse_duration

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

WHOLE_FILE = f"{0:020d}-0-000001.arrow"
"""The one segment that a recording in a file counts as, for each version."""
_WHERE = "--replay"


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Served rows by version.

    Attributes
    ----------
    file : Path, optional
        Where the rows are; the prediction log when None.
    segments : mapping
        Version to its segments in the order in which windows take them: name to the times of its served rows.
    """

    source: str
    file: Path | None
    segments: Mapping[int, Mapping[str, NDArray[Any]]]

    @property
    def rows(self) -> int:
        """Served rows of all versions."""
        return sum(len(times) for parts in self.segments.values() for times in parts.values())

    def moment(self, version: int, segment: str, row: int) -> datetime:
        """Return when a row was served."""
        found: datetime = self.segments[version][segment][row].item()
        return found.replace(tzinfo=UTC)

    @property
    def began(self) -> datetime:
        """When the first row was served."""
        firsts = [times.min() for parts in self.segments.values() for times in parts.values() if len(times)]
        found: datetime = min(firsts).item()
        return found.replace(tzinfo=UTC)

    def ids(self, log: Path) -> set[str]:
        """Return the prediction ids of the recording; `log` is the model's folder in the prediction log."""
        if self.file is not None:
            return set(open_recording(self.file)["prediction_id"].to_pylist())
        found: set[str] = set()
        for version, parts in self.segments.items():
            for segment in listing(log / f"v{version}"):
                if segment.name in parts:
                    found.update(read(segment, columns=["prediction_id"])["prediction_id"].to_pylist())
        return found


def find_recording(home: Path, environment: str, model: str, recorded: str) -> Recording:
    """Return the recording that a time such as ``24h``, or the path of a ``.parquet`` or ``.arrow`` file, names.

    Raises
    ------
    InvalidInput
        When it is neither, cannot be read, or holds nothing.
    """
    if recorded.endswith((".parquet", ".arrow")) or "/" in recorded:
        found = _from_file(Path(recorded).expanduser().absolute())
    else:
        try:
            span = parse_duration(recorded, what=_WHERE)
        except InvalidInput as unread:
            raise InvalidInput(
                "--replay takes a time such as 24h, or a recording", value=recorded, remedy=".parquet or .arrow"
            ) from unread
        # The log is stamped by the machine's clock, whatever the workspace's clock says.
        since = datetime.now(UTC) - span
        found = _from_log(home / "predictions" / environment / model, recorded, int(since.timestamp() * 1e9))
    if not found.rows:
        raise InvalidInput("nothing was recorded", value=recorded, where=_WHERE, remedy="give a longer time, or a file")
    return found


def _from_log(base: Path, source: str, since_ns: int) -> Recording:
    segments: dict[int, dict[str, NDArray[Any]]] = {}
    for folder in base.glob("v*") if base.is_dir() else ():
        if not folder.name[1:].isdigit():
            continue
        parts = {}
        for segment in arrivals(folder, Stream()):  # in the order in which a monitor takes them
            own = parse(segment.name)
            if own is not None and own.time_ns >= since_ns:
                table = read(segment, columns=["time", "mirrored"])
                parts[segment.name] = _times(table.filter(served_mask(table)))
        if parts:
            segments[int(folder.name[1:])] = parts
    return Recording(source, None, dict(sorted(segments.items())))


def _from_file(file: Path) -> Recording:
    table = open_recording(file)
    versions = sorted(set(table["version"].to_pylist()))
    return Recording(file.name, file, {version: {WHOLE_FILE: _times(rows_of(table, version))} for version in versions})


def open_recording(file: Path) -> pa.Table:
    """Return the served rows of a file, in the order of their times."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    table = read_file(file, where=_WHERE)
    if "version" not in table.column_names:
        raise InvalidInput("the recording lacks version", value=str(file), remedy="say which version answered each row")
    if not pa.types.is_timestamp(table["time"].type) or table["time"].type.tz is None:
        raise InvalidInput("the recording's times have no time zone", value=str(file), remedy="store UTC timestamps")
    for name in ("prediction_id", "time", "row", "version", "input"):
        if table[name].null_count:
            raise InvalidInput(f"the recording has rows without {name}", value=str(file))
    if not pa.types.is_integer(table["version"].type):
        raise InvalidInput("the recording's versions are no whole numbers", value=str(file))
    if not (pa.types.is_string(table["prediction_id"].type) or pa.types.is_large_string(table["prediction_id"].type)):
        raise InvalidInput("the recording's prediction ids are no texts", value=str(file))
    for name, kind in (("time", pa.timestamp("us", tz="UTC")), ("prediction_id", pa.string())):
        # Not safe: a time in nanoseconds, as pandas writes it, may lose its last three digits.
        column = table[name].cast(kind, safe=False)
        table = table.set_column(table.schema.get_field_index(name), name, column)
    if "mirrored" in table.column_names:
        table = table.filter(served_mask(table))
    if "latency_ms" not in table.column_names:
        table = table.append_column("latency_ms", pa.array(np.full(len(table), np.nan)))
    # Stable: rows of one moment keep the order of the file, which is that of the log.
    order = np.argsort(pc.cast(table["time"], pa.timestamp("us", tz="UTC")).to_numpy(), kind="stable")
    return table.take(pa.array(order))


def rows_of(table: pa.Table, version: int) -> pa.Table:
    """Return the rows of one version."""
    import pyarrow.compute as pc

    return table.filter(pc.equal(table["version"], version))


def _times(table: pa.Table) -> NDArray[Any]:
    import pyarrow as pa

    times: NDArray[Any] = table["time"].cast(pa.timestamp("us", tz="UTC")).to_numpy()
    return times.astype("datetime64[us]")


class Recordings:
    """The few files that a worker has open."""

    def __init__(self, kept: int = 2) -> None:
        self._kept = kept
        self._open: OrderedDict[tuple[str, int, int], pa.Table] = OrderedDict()

    def served(self, file: str) -> pa.Table:
        """Return the served rows of a file, read once."""
        status = Path(file).stat()
        key = (file, status.st_mtime_ns, status.st_size)
        if key not in self._open:
            self._open[key] = open_recording(Path(file))
        self._open.move_to_end(key)
        if len(self._open) > self._kept:
            self._open.popitem(last=False)
        return self._open[key]
