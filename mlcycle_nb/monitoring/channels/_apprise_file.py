"""The file with Apprise URLs: private, one ``NAME = URL`` a line. A URL holds secrets, so only names are ever shown."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from mlcycle_nb.errors import InvalidInput, Refused
from mlcycle_nb.files import read_small_file

_LINE = re.compile(r"([a-z0-9][a-z0-9_-]{0,31})\s*=\s*([a-zA-Z][a-zA-Z0-9+.-]*://\S+)")


def read_urls(file: str) -> dict[str, str]:
    """Return receiver name -> URL.

    Raises
    ------
    Refused
        When no file is set, or others may read it.
    InvalidInput
        When a line cannot be read; it is named by its number, never shown.
    """
    if not file:
        raise Refused("there are no Apprise URLs", remedy="set monitoring.apprise_file in mlcycle.toml")
    path = Path(file).expanduser()
    text = read_small_file(path, limit=65_536)
    if stat.S_IMODE(os.stat(path).st_mode) & 0o077:
        raise Refused("others may read the Apprise URLs", where=str(path), remedy=f"chmod 600 {path}")
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise InvalidInput(
                "a line is not NAME = URL", where=f"{path} line {number}", remedy="write such as ops = slack://..."
            )
        if match[1] in found:
            raise InvalidInput("a receiver is named twice", value=match[1], where=f"{path} line {number}")
        found[match[1]] = match[2]
    if not found:
        raise InvalidInput("the file names no receiver", where=str(path), remedy="write such as ops = slack://...")
    return found
