"""Merges old segments of a prediction log into Parquet."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from mlcycle_nb.serving.prediction_reader import REPLACES, SEGMENT_ROWS, read_segment
from mlcycle_nb.serving.prediction_segments import COMPACTED, SEGMENT

LOCK = ".compact.lock"
MIN_SEGMENTS = 16
BATCH_BYTES = 32 * 1_048_576


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """What one pass did."""

    merged: int = 0


def compact(
    folder: Path,
    *,
    min_age: timedelta = timedelta(seconds=10),
    min_segments: int = MIN_SEGMENTS,
    now: float | None = None,
) -> Compaction:
    """Merge segments older than `min_age`, when there are at least `min_segments`.

    Safe to call from several processes: one works, the others return at once. A crash leaves either the segments, or
    the merged file that names the segments it replaces; readers count no row twice in between.
    """
    with open(folder / LOCK, "a") as lock:
        os.chmod(lock.name, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return Compaction()
        moment = time.time() if now is None else now
        finish_earlier(folder)
        merged = _merge(folder, moment - min_age.total_seconds(), min_segments)
        return Compaction(merged=merged)


def finish_earlier(folder: Path) -> None:
    """Remove what a killed pass left: staged files, and segments that a merged file already replaces."""
    import pyarrow.parquet as pq

    for staged in folder.glob(f".*{COMPACTED}.tmp"):
        staged.unlink(missing_ok=True)
    segments = {path.name for path in folder.glob(f"*{SEGMENT}")}
    if not segments:
        return
    for path in folder.glob(f"*{COMPACTED}"):
        metadata = pq.read_schema(path).metadata or {}
        for name in segments & set(json.loads(metadata.get(REPLACES, b"[]"))):
            (folder / name).unlink(missing_ok=True)


def _merge(folder: Path, older_than: float, min_segments: int) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    chosen: list[Path] = []
    size = 0
    for path in sorted(folder.glob(f"*{SEGMENT}")):
        status = path.stat()
        if path.name.startswith(".") or status.st_mtime > older_than:
            continue
        if chosen and size + status.st_size > BATCH_BYTES:
            break
        chosen.append(path)
        size += status.st_size
    if len(chosen) < min_segments:
        return 0
    newest = max(path.stat().st_mtime for path in chosen)
    parts = [read_segment(path) for path in chosen]
    table = pa.concat_tables(parts, promote_options="permissive")
    replaced = {
        REPLACES: json.dumps([path.name for path in chosen]).encode(),
        SEGMENT_ROWS: json.dumps([len(part) for part in parts]).encode(),
    }
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **replaced})
    target = folder / f"{chosen[0].name.removesuffix(SEGMENT)}{COMPACTED}"
    staged = folder / f".{target.name}.tmp"
    pq.write_table(table, staged, compression="zstd")
    staged.chmod(0o600)
    with staged.open("rb") as stream:
        os.fsync(stream.fileno())
    # Its age is that of its newest row, for retention and for readers that skip old files.
    os.utime(staged, (newest, newest))
    os.replace(staged, target)
    for path in chosen:
        path.unlink(missing_ok=True)
    return len(chosen)


def main() -> None:
    """Merge the folder that is named on the command line, at the lowest priority; what is kept is not its to say."""
    os.nice(19)
    compact(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
