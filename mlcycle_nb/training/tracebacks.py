"""Tracebacks of workers as IPython would show them: the cells' own lines with an arrow, and none of ours."""

from __future__ import annotations

import linecache
import os
import site
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlcycle_nb.errors import MLCycleError

CONTEXT_LINES = 2
_MOST_FRAMES = 16
_OURS = str(Path(__file__).parents[1]) + os.sep
_LIBRARIES = tuple(
    {
        folder.rstrip(os.sep) + os.sep
        for folder in (*site.getsitepackages(), site.getusersitepackages(), *sysconfig.get_paths().values())
        if "lib" in folder
    }
)


def format_error(error: BaseException, own: str, labels: Mapping[str, str], *, rank: int) -> str:
    """Return a traceback from the user's first line on.

    Parameters
    ----------
    error : BaseException
    own : str
        File name of the cell or script that ran.
    labels : mapping
        File name -> what to call it, such as ``Cell In[4]``.
    rank : int
        Shown in the first line, where IPython has the words "Traceback (most recent call last)".
    """
    parts = []
    for position, (link, shown) in enumerate(_chain(error)):
        name = type(shown).__name__
        if position == 0:
            parts.append(f"{'-' * 75}\n{name:<32}Traceback (most recent call last), rank {rank}")
        parts += [_frame(frame, labels) for frame in _users_frames(shown, own)]
        parts.append("".join(_last_lines(shown)).rstrip("\n"))
        if link:
            parts.append(f"\n{link}\n")
    return "\n".join(parts) + "\n"


def users_frame(error: BaseException, own: str) -> traceback.FrameSummary | None:
    """Return the innermost frame in the cell or script, or None when it has no part in the error."""
    found = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == own]
    return found[-1] if found else None


def _chain(error: BaseException) -> Iterator[tuple[str, BaseException]]:
    """Yield the errors from the first cause on, each with the words that lead to the next."""
    links: list[tuple[str, BaseException]] = [("", error)]
    seen = {id(error)}
    shown = error
    while True:
        if shown.__cause__ is not None:
            before, words = shown.__cause__, "The above exception was the direct cause of the following exception:"
        elif shown.__context__ is not None and not shown.__suppress_context__:
            before, words = shown.__context__, "During handling of the above exception, another exception occurred:"
        else:
            break
        if id(before) in seen:
            break
        seen.add(id(before))
        links.append((words, before))
        shown = before
    yield from reversed(links)


def _users_frames(error: BaseException, own: str) -> list[traceback.FrameSummary]:
    frames = list(traceback.extract_tb(error.__traceback__))
    for position, frame in enumerate(frames):
        if frame.filename == own:  # what called the cell is ours and says nothing
            frames = frames[position:]
            break
    kept = [frame for frame in frames if not frame.filename.startswith(_OURS) and "frozen " not in frame.filename]
    if len(kept) > _MOST_FRAMES:  # a recursion without end
        half = _MOST_FRAMES // 2
        left_out = len(kept) - 2 * half
        gap = traceback.FrameSummary("", None, f"{left_out} more frames", lookup_line=False)
        return [*kept[:half], gap, *kept[-half:]]
    return kept


def _frame(frame: traceback.FrameSummary, labels: Mapping[str, str]) -> str:
    if frame.lineno is None:
        return f"   ... {frame.name} ..."
    label = labels.get(frame.filename)
    function = "" if frame.name == "<module>" else f", in {frame.name}"
    place = (
        f"{label}, line {frame.lineno}{function}"
        if label
        else f"File {_short(frame.filename)}:{frame.lineno}{function}"
    )
    if label is None and frame.filename.startswith(_LIBRARIES):
        return f"{place}\n---> {frame.lineno} {(frame.line or '').strip()}"
    lines = linecache.getlines(frame.filename)
    first = max(1, frame.lineno - CONTEXT_LINES)
    last = min(len(lines), frame.lineno + CONTEXT_LINES)
    rows = []
    for number in range(first, last + 1):
        text = lines[number - 1].rstrip()
        if number == frame.lineno:
            rows.append(f"{'-' * max(2, 5 - len(str(number)))}> {number} {text}")
        elif not (number == 1 and not text):  # the line of the magic itself
            rows.append(f"{number:>7} {text}")
    return "\n".join([place, *rows])


def _last_lines(error: BaseException) -> list[str]:
    if isinstance(error, MLCycleError):  # one line, as in the notebook
        return [f"{type(error).__name__}: {error}"]
    return traceback.format_exception_only(error)


def _short(path: str) -> str:
    home = os.path.expanduser("~")
    return "~" + path[len(home) :] if path.startswith(home + os.sep) else path
