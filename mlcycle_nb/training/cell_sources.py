"""The source of notebook cells whose functions travel: a worker's traceback shows their lines, too."""

from __future__ import annotations

import json
import linecache
from collections.abc import Mapping
from pathlib import Path

from mlcycle_nb.files import write_atomically
from mlcycle_nb.notebook.live import shell

_NAME = "cells.json"
_LIMIT = 4_194_304  # characters of all cells


def write(folder: Path, stream: bytes) -> None:
    """Store beside a payload the cells that its code came from: those whose file names are in the stream."""
    numbers: Mapping[str, int] = getattr(getattr(shell(), "compile", None), "_filename_map", {})
    found, total = {}, 0
    for name, entry in list(linecache.cache.items()):
        if len(entry) != 4 or entry[1] is not None or name.encode() not in stream:  # with a time: a file on disk
            continue
        source = "".join(entry[2])
        total += len(source)
        if total > _LIMIT:
            break
        found[name] = {"source": source, "number": numbers.get(name)}
    write_atomically(folder / _NAME, json.dumps(found), durable=False)


def remember(folder: Path) -> dict[str, str]:
    """Let tracebacks in this process show the stored cells; return file name -> ``Cell In[n]``."""
    try:
        cells = json.loads((folder / _NAME).read_text())
    except FileNotFoundError:  # a payload of an earlier version
        return {}
    labels = {}
    for name, cell in cells.items():
        source = cell["source"]
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        labels[name] = label(cell["number"])
    return labels


def label(number: int | None) -> str:
    """Return what IPython calls a cell."""
    return "Cell" if number is None else f"Cell In[{number}]"
