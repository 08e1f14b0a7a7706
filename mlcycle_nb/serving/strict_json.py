"""JSON that has one reading: no duplicate keys, no NaN, no lone surrogates, no depth.

orjson refuses most of that by itself and is fast. What it lets pass (duplicate keys, depth up to 1,024) shows in two
counts over the bytes, so the slow, exact reader runs only for bodies that look odd.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import orjson

from mlcycle_nb.serving.refusals import Problem, malformed, unprocessable

DEPTH_LIMIT = 32
DIGIT_LIMIT = 400


def loads(body: bytes) -> Any:
    """Return the document, or raise Problem with what is wrong and where."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as failure:
        raise explain(body, failure) from None
    colons = body.count(b":")
    # Every object but the innermost holds a key, and so a colon: that bounds the depth without looking closer.
    if colons != count_keys(document) or (colons + body.count(b"[") >= DEPTH_LIMIT and _deep(body)):
        read_exactly(body)
    return document


def count_keys(document: Any) -> int:
    """Return how many object keys a document has, or fewer: lists of anything but objects are not entered.

    A key needs a colon, so a body with as many colons as counted keys cannot hold a duplicate.
    """
    if type(document) is list:
        return sum([count_keys(item) for item in document]) if document and type(document[0]) is dict else 0
    if type(document) is not dict:
        return 0
    count = len(document)
    for value in document.values():
        kind = type(value)
        if kind is dict or (kind is list and value and type(value[0]) is dict):
            count += count_keys(value)
    return count


def _deep(body: bytes) -> bool:
    """Tell whether brackets nest beyond the limit; brackets inside texts may only make this say yes."""
    if b'"' in body and _brackets_in_texts(body):
        return True
    brackets = np.frombuffer(body.translate(None, delete=_NOT_BRACKETS), dtype=np.uint8)
    opening = (brackets == ord("[")) | (brackets == ord("{"))
    return int(np.where(opening, 1, -1).cumsum().max()) > DEPTH_LIMIT


def _brackets_in_texts(body: bytes) -> bool:
    # Outside texts brackets are balanced; inside, any number of either kind could hide a depth.
    if b"\\" in body:
        return True
    return any(bracket in text for text in body.split(b'"')[1::2] for bracket in (b"[", b"]", b"{", b"}"))


_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def explain(body: bytes, failure: ValueError) -> Problem:
    """Return the problem of a body that the fast reader refused."""
    try:
        read_exactly(body)
    except Problem as problem:
        return problem
    return malformed("bad_json", f"the body is not JSON: {failure}")


def read_exactly(body: bytes) -> Any:
    """Read `body` slowly, and raise Problem for anything that another reader might take otherwise."""
    if not body.strip():
        raise malformed("empty_body", "the body is empty; send a JSON document")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as failure:
        raise malformed("bad_encoding", f"the body is not UTF-8 at byte {failure.start}") from None
    _check_depth(text)
    try:
        document = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_NotFinite, parse_float=_finite, parse_int=_whole
        )
    except RecursionError:
        raise malformed("too_deep", f"the document nests deeper than {DEPTH_LIMIT}") from None
    except json.JSONDecodeError as failure:
        raise malformed(
            "bad_json", f"the body is not JSON: {failure.msg} at line {failure.lineno}, column {failure.colno}"
        ) from None
    _check_values(document, "$")
    return document


class _NotFinite:
    """Stands for a number that JSON has no finite value for, until its place is known."""

    def __init__(self, text: str) -> None:
        self.text = text[:40]


def _finite(text: str) -> float | _NotFinite:
    value = float(text)
    return value if math.isfinite(value) else _NotFinite(text)


def _whole(text: str) -> int | float | _NotFinite:
    return int(text) if len(text) <= DIGIT_LIMIT else _NotFinite(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise malformed("duplicate_key", f"the key {key[:80]!r} is given twice")
            seen.add(key)
    return document


def _check_depth(text: str) -> None:
    depth, in_text, skip = 0, False, False
    for character in text:
        if in_text:
            if skip:
                skip = False
            elif character == "\\":
                skip = True
            elif character == '"':
                in_text = False
        elif character == '"':
            in_text = True
        elif character in "[{":
            depth += 1
            if depth > DEPTH_LIMIT:
                raise malformed("too_deep", f"the document nests deeper than {DEPTH_LIMIT}")
        elif character in "]}":
            depth -= 1


def _check_values(value: Any, where: str) -> None:
    if isinstance(value, _NotFinite):
        raise unprocessable("not_finite", f"{value.text} is no finite number", where)
    if isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key, where)
            _check_values(item, f"{where}.{key[:80]}")
    elif isinstance(value, list):
        for position, item in enumerate(value):
            if not isinstance(item, (int, float)):
                _check_values(item, f"{where}[{position}]")


def _check_text(text: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise malformed("bad_encoding", "a text holds half of a surrogate pair", where) from None
