"""Which predictions the log knows: looked for in the newest files first, and no longer than needed."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING

from mlcycle_nb.serving.prediction_segments import COMPACTED, SEGMENT

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ["prediction_id", "row"]
_ATTEMPTS = 3


def logged_rows(folder: Path, keys: Set[tuple[str, int]]) -> set[tuple[str, int]]:
    """Return those of some (prediction id, row) that the log of a model holds, in any version's part of it.

    Parameters
    ----------
    folder : Path
        The model's folder in the prediction log of an environment.
    """
    found: set[tuple[str, int]] = set()
    for _ in range(_ATTEMPTS):
        # A merge takes segments away after it has written their rows elsewhere: another look finds those there.
        gone = _look(folder, set(keys) - found, found)
        if not gone or len(found) == len(keys):
            break
    return found


def _look(folder: Path, missing: set[tuple[str, int]], found: set[tuple[str, int]]) -> bool:
    """Add what is found; return whether a file went away meanwhile."""
    import pyarrow as pa
    import pyarrow.compute as pc

    files = [file for file in folder.glob("v*/*") if file.name.endswith((SEGMENT, COMPACTED)) and file.name[0] != "."]
    gone = False
    for file in sorted(files, key=lambda file: file.name, reverse=True):
        if not missing:
            break
        try:
            table = _ids(file)
        except FileNotFoundError:
            gone = True
            continue
        except (OSError, ValueError):  # a file that a power cut left short knows no prediction
            continue
        wanted = pa.array(sorted({key for key, _ in missing}), pa.string())
        hit = table.filter(pc.is_in(table["prediction_id"], value_set=wanted))
        here = missing & set(zip(hit["prediction_id"].to_pylist(), hit["row"].to_pylist(), strict=True))
        found |= here
        missing -= here
    return gone


def _ids(file: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.name.endswith(COMPACTED):
        return pq.read_table(file, columns=_COLUMNS)
    with pa.memory_map(str(file)) as source, pa.ipc.open_file(source) as reader:
        return reader.read_all().select(_COLUMNS)
