"""What a consumer sends to ``/v2/models/NAME/feedback``, read strictly: one fault, and nothing of it is taken.

``{"feedback": [{"id": "...", "label": "yes", "row": 0, "at": "2026-03-01T09:30:00Z"}]}``, where ``row`` and ``at`` may
be left out.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from mlcycle_nb.errors import InvalidInput, did_you_mean
from mlcycle_nb.serving.labels import LARGEST_ROW, Label, make_label
from mlcycle_nb.serving.refusals import Problem, unprocessable
from mlcycle_nb.serving.strict_json import loads

ITEMS = 10_000
FUTURE = timedelta(minutes=1)
"""How far ahead of ours a sender's clock may be."""
_MEMBERS = ("id", "label", "row", "at")


def read_feedback(body: bytes, now: datetime) -> list[Label]:
    """Return the labels of a request.

    Raises
    ------
    Problem
        400 for what is no JSON, 413 for too many items, 422 with the place of the first item that is not as it must be.
    """
    document = loads(body)
    if type(document) is not dict:
        raise unprocessable("wrong_type", "send an object with the member feedback", "$")
    for name in document:
        if name != "feedback":
            raise unprocessable(
                "unknown_member", f"{did_you_mean(name, ['feedback'])}known: feedback", f"$.{name[:40]}"
            )
    items = document.get("feedback")
    if type(items) is not list or not items:
        raise unprocessable("wrong_type", "a list of at least one label is missing", "feedback")
    if len(items) > ITEMS:
        raise Problem(413, "too_many_labels", f"over {ITEMS} labels; send fewer in one request")
    return [_item(item, f"feedback[{position}]", now) for position, item in enumerate(items)]


def _item(item: Any, where: str, now: datetime) -> Label:
    if type(item) is not dict:
        raise unprocessable("wrong_type", "is not an object", where)
    for name in item:
        if name not in _MEMBERS:
            known = f"{did_you_mean(name, _MEMBERS)}known: {', '.join(_MEMBERS)}"
            raise unprocessable("unknown_member", known, f"{where}.{name[:40]}")
    for name in ("id", "label"):
        if name not in item:
            raise unprocessable("missing_member", "is missing", f"{where}.{name}")
    if type(item["id"]) is not str:
        raise unprocessable("wrong_type", "is not a text", f"{where}.id")
    if not item["id"].isprintable():
        raise unprocessable("bad_text", "holds characters that no prediction id has", f"{where}.id")
    label = item["label"]
    if type(label) not in (str, int, float, bool):
        raise unprocessable("wrong_type", "is no text, number or truth value", f"{where}.label")
    row = item.get("row", 0)
    if type(row) is not int or not 0 <= row <= LARGEST_ROW:
        raise unprocessable("wrong_type", "is no whole number from 0", f"{where}.row")
    at = item.get("at", "")
    if type(at) is not str or ("at" in item and not at.strip()):
        raise unprocessable("wrong_type", "is not a time as text", f"{where}.at")
    text = str(int(label)) if type(label) is bool else str(label)
    try:
        found = make_label(item["id"], text, str(row), at, where=where)
    except InvalidInput as fault:
        raise unprocessable("bad_label", fault.problem, where) from None
    if found.at is not None and found.at > now + FUTURE:
        raise unprocessable("future_time", "lies in the future", f"{where}.at")
    return found
