"""What workers print: bounded on the disk, and made plain before anybody sees it.

A rank's file is written by whatever runs in the rank, native code and child processes included, so it is bounded from
outside: when it has grown too long, its end is kept beside it and the file begins anew.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from mlcycle_nb.errors import inert
from mlcycle_nb.files import write_atomically

MOST_BYTES = 4_194_304
KEPT_BYTES = 1_048_576
SHOWN_BYTES = 65_536
LINE_CHARACTERS = 500
# CSI, OSC and the other escape sequences of terminals.
_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[ -/]*[0-~])"
)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What is no longer kept of a rank's output."""

    lines: int = 0
    size_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.lines:,} lines ({self.size_bytes / 1e6:.1f} MB) were left out" if self.size_bytes else ""


def bound(log: Path) -> None:
    """Keep only the end of `log` when it has grown past its bound; what goes is counted.

    Safe beside writers that append: what they add in the instant of the cut is counted as left out.
    """
    try:
        size = log.stat().st_size
        if size <= MOST_BYTES:
            return
        before = _kept(log)
        lines = _count_lines(before, before.stat().st_size) if before.exists() else 0
        gone = before.stat().st_size if before.exists() else 0
        with log.open("rb") as source:
            lines += _count_lines(log, size - KEPT_BYTES)
            source.seek(size - KEPT_BYTES)
            tail = source.read(KEPT_BYTES)
        write_atomically(before, tail, durable=False)
        with log.open("r+b") as target:
            grown = os.fstat(target.fileno()).st_size - size
            target.truncate(0)
        known = left_out(log)
        now = {"lines": known.lines + lines, "size_bytes": known.size_bytes + gone + size - KEPT_BYTES + grown}
        write_atomically(_count(log), json.dumps(now), durable=False)
    except OSError:
        return  # a full disk: it is tried again in a moment


def left_out(log: Path) -> LeftOut:
    """Return how much of a rank's output is no longer kept."""
    try:
        return LeftOut(**json.loads(_count(log).read_text()))
    except (OSError, ValueError, TypeError):
        return LeftOut()


def tail(log: Path, lines: int, limit: int = SHOWN_BYTES) -> list[str]:
    """Return the last lines of a rank's output, plain, of at most `limit` bytes; a note is first when some are missing.

    Terminal escapes go, of a progress bar that redraws its line the last state stays, other control characters are
    shown as code points, and a long line is cut.
    """
    content = _last_bytes(log, limit)
    if len(content) < limit:
        content = _last_bytes(_kept(log), limit - len(content)) + content
    cut = len(content) >= limit
    shown = _last_characters(plain_lines(content.decode(errors="replace"), begins_inside=cut), limit)
    size = sum(_size(path) for path in (log, _kept(log)))
    told = left_out(log)
    note = []
    if told.size_bytes:
        note = [f"[{told}]"]
    elif len(shown) > lines or cut:
        note = [f"[the last {min(lines, len(shown)):,} lines of {size / 1e6:.1f} MB]"] if size > limit else []
    return [*note, *shown[-lines:]] if lines > 0 else note


def _last_characters(lines: list[str], limit: int) -> list[str]:
    """Return the last lines of at most `limit` characters: control characters grow when they are shown."""
    for place in range(len(lines) - 1, -1, -1):
        limit -= len(lines[place]) + 1
        if limit < 0:
            return lines[place + 1 :]
    return lines


def plain_lines(text: str, *, begins_inside: bool = False) -> list[str]:
    """Return text as lines that a page or a terminal can show as they are."""
    lines = text.replace("\r\n", "\n").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    shown = [plain(line) for line in lines]
    if begins_inside and shown:
        shown[0] = f"…{shown[0]}"
    return shown


def plain(line: str) -> str:
    """Return one line without escapes and control characters, cut to 500 characters."""
    if "\r" in line:
        drawn = [part for part in line.split("\r") if part.strip()]
        line = drawn[-1] if drawn else ""
    length = len(line)
    line = line[: 4 * LINE_CHARACTERS]
    if not line.isascii() or not line.isprintable():
        line = _ESCAPE.sub("", line)
        while "\b" in line and (shorter := re.sub("[^\x08]\x08", "", line)) != line:
            line = shorter
        line = inert(line.replace("\b", "").replace("\t", "    ").replace("\x07", ""))
    if len(line) > LINE_CHARACTERS or length > 4 * LINE_CHARACTERS:
        return f"{line[:LINE_CHARACTERS]}… ({length:,} characters)"
    return line


# -- files ---------------------------------------------------------------------------------------------------


def _kept(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")


def _count(log: Path) -> Path:
    return log.with_name(f"{log.name}.left-out.json")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _last_bytes(path: Path, limit: int) -> bytes:
    if limit <= 0:
        return b""
    try:
        with path.open("rb") as source:
            size = source.seek(0, os.SEEK_END)
            source.seek(max(0, size - limit))
            return source.read(limit)
    except OSError:
        return b""


def _count_lines(path: Path, size: int) -> int:
    lines = 0
    with path.open("rb") as source:
        while size > 0:
            block = source.read(min(1_048_576, size))
            if not block:
                break
            lines += block.count(b"\n")
            size -= len(block)
    return lines
