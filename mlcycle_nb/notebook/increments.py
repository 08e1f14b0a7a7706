"""What has to be told of a change: rows that went and rows that came, pieces of HTML that differ."""

from __future__ import annotations

import base64
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
_TOKEN = re.compile(r"<[^>]*>|[^<]+")


def table_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Return rows as field names once and values in their order; a field that a row lacks is None."""
    fields = list(dict.fromkeys(field for row in rows for field in row))
    return {"fields": fields, "rows": [[row.get(field) for field in fields] for row in rows]}


def rows_change(old: Sequence[Sequence[Any]], new: Sequence[Sequence[Any]]) -> dict[str, Any] | None:
    """Return how `old` becomes `new`, or None when they are equal.

    Returns
    -------
    dict
        ``drop``: places in `old` that go, as ``[first, count]`` pairs, or ``keep``: a bit for each old row, in base64,
        whichever is shorter; ``add``: ``[place in the result, rows]`` pairs, in rising order.
    """
    before, after = [_key(row) for row in old], [_key(row) for row in new]
    if before == after:
        return None
    kept, added = _match(before, after)
    change: dict[str, Any] = {}
    gone = [place for place, keep in enumerate(kept) if not keep]
    if gone:
        runs = _runs(gone)
        if len(runs) * 8 <= len(old) // 6:
            change["drop"] = runs
        else:
            bits = bytearray((len(old) + 7) // 8)
            for place, keep in enumerate(kept):
                bits[place // 8] |= keep << (place % 8)
            change["keep"] = base64.b64encode(bytes(bits)).decode()
    if added:
        change["add"] = [[first, [list(new[place]) for place in range(first, first + n)]] for first, n in _runs(added)]
    return change


def apply_rows_change(old: Sequence[Sequence[Any]], change: Mapping[str, Any]) -> list[Any]:
    """Return the rows after a change; what the browser does, for checks in Python."""
    rows = list(old)
    if "keep" in change:
        bits = base64.b64decode(change["keep"])
        rows = [row for place, row in enumerate(rows) if bits[place // 8] >> (place % 8) & 1]
    for first, count in reversed(change.get("drop", [])):
        del rows[first : first + count]
    for place, added in change.get("add", []):
        rows[place:place] = added
    return rows


def html_change(old: str, new: str) -> list[list[Any]] | None:
    """Return how `old` becomes `new`: ``[first token, tokens that go, text that comes]``, or None when equal.

    A token is a tag or the text between two. The places are those in `old`, in rising order.
    """
    if old == new:
        return None
    before, after = _TOKEN.findall(old), _TOKEN.findall(new)
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    if len(before) == len(after):  # the usual case: a few numbers moved
        pieces = [[place, 1, text] for place, text in enumerate(after) if text != before[place]]
        if len(pieces) <= 60:
            return pieces
    return [
        [first, end - first, "".join(after[start:stop])]
        for tag, first, end, start, stop in matcher.get_opcodes()
        if tag != "equal"
    ]


def apply_html_change(old: str, change: Sequence[Sequence[Any]]) -> str:
    """Return the HTML after a change; what the browser does, for checks in Python."""
    tokens = _TOKEN.findall(old)
    for first, count, text in reversed(change):
        tokens[first : first + count] = [text]
    return "".join(tokens)


def _key(row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(repr(value) if isinstance(value, dict | list) else value for value in row)


def _match(before: list[Any], after: list[Any]) -> tuple[list[bool], list[int]]:
    """Return which old rows stay and which new places are filled by new rows, for rows that keep their order."""
    wanted: dict[Any, list[int]] = {}
    for place, key in enumerate(after):
        wanted.setdefault(key, []).append(place)
    kept: list[bool] = []
    taken: set[int] = set()
    reached = -1
    for key in before:
        later = next((place for place in wanted.get(key, ()) if place > reached), None)
        kept.append(later is not None)
        if later is not None:
            taken.add(later)
            reached = later
    return kept, [place for place in range(len(after)) if place not in taken]


def _runs(places: Sequence[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][0] + runs[-1][1] == place:
            runs[-1][1] += 1
        else:
            runs.append([place, 1])
    return runs
