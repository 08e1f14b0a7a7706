"""The notebook's file, where its place is known: the cells in their order, as they were last saved."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_LIMIT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Document:
    """Cells of a saved notebook: ids in order, and the source of each."""

    sources: dict[str, str]
    saved_at: datetime

    @property
    def order(self) -> dict[str, int]:
        """Cell id -> place from the top."""
        return {cell: place for place, cell in enumerate(self.sources)}


def read_document(shell: Any) -> Document | None:
    """Return the notebook that `shell` belongs to; None when its place is unknown or it cannot be read."""
    path = os.environ.get("JPY_SESSION_NAME") or getattr(shell, "user_ns", {}).get("__vsc_ipynb_file__")
    return None if not path else _read(Path(str(path)))


def _read(path: Path) -> Document | None:
    if path.suffix != ".ipynb":
        return None
    try:
        about = path.stat()
        if about.st_size > _LIMIT_BYTES:
            return None
        cells = json.loads(path.read_text())["cells"]
        code = [cell for cell in cells if cell.get("cell_type") == "code" and cell.get("id")]
        sources = {str(cell["id"]): _text(cell["source"]) for cell in code}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # half written, or no notebook: nothing is claimed about it
    return Document(sources, datetime.fromtimestamp(about.st_mtime, UTC)) if len(sources) == len(code) else None


def _text(source: Any) -> str:
    return source if isinstance(source, str) else "".join(source)
