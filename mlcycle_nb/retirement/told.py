"""What is said about a retirement, and to whom: an outbox in the record, filled in the change's own transaction."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from mlcycle_nb.retirement.records import Notice, Retirement


def with_notices(record: Retirement, about: str, now: datetime) -> Retirement:
    """Return the record with one more message for each of its channels."""
    text = message(record, about)
    added = tuple(Notice(channel=channel, about=about, at=now, text=text) for channel in record.channels)
    return replace(record, notices=(*record.notices, *added))


def message(record: Retirement, about: str) -> str:
    """Return the text of a message: what happens, when, and what the reader should do."""
    instead = f"use {record.replacement} instead" if record.replacement else "there is no replacement"
    subject = f"{record.reference} in {record.environment}"
    end = f"{record.gone_at:%Y-%m-%d %H:%M} UTC" if record.gone_at else "a date to be set"
    match about:
        case "planned":
            return f"{subject} will be retired ({record.reason}); {instead}"
        case "started":
            names = ", ".join(one.name for one in record.consumers if one.pinned and one.state == "open")
            asked = f"; please acknowledge: {names}" if names else ""
            return f"{subject} is being retired and ends on {end}; {instead}{asked}"
        case "paused":
            return f"the retirement of {subject} is paused: {'; '.join(record.blockers)}"
        case "gone":
            return f"{subject} answers 410 from now on; {instead}"
        case "completed":
            path = record.archive.path if record.archive else "missing"
            return f"the retirement of {subject} is complete; its archive is {path}"
        case "cancelled":
            return f"the retirement of {subject} was cancelled; everything is as before"
        case _:
            return f"{subject} was restored from its archive"
