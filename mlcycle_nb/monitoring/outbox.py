"""When to try a message again: growing waits with jitter, the receiver's own wish, and an end."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

FIRST_SECONDS = 2.0
LONGEST_SECONDS = 300.0
GIVE_UP = timedelta(days=1)


def wait_seconds(key: str, attempts: int, asked_for: float | None = None) -> float:
    """Return how long to wait after so many failed attempts.

    The wait doubles up to five minutes. A quarter of it depends on the key, so that messages which failed together
    do not all come back together. A receiver that asks for more time (``Retry-After``) gets it, up to an hour.
    """
    base = min(FIRST_SECONDS * 2.0 ** (attempts - 1), LONGEST_SECONDS)
    share = int.from_bytes(hashlib.sha256(f"{key}/{attempts}".encode()).digest()[:4], "big") / 2**32
    wait = base * (0.875 + 0.25 * share)
    return max(wait, min(asked_for, 3600.0)) if asked_for is not None and asked_for > 0 else wait


def is_due(next_at: datetime | None, now: datetime) -> bool:
    """Return whether the next attempt may be made; a clock that was set back does not hold a message."""
    return next_at is None or now >= next_at or next_at - now > timedelta(hours=1, seconds=1)


def given_up(created_at: datetime, now: datetime) -> bool:
    """Return whether a message is too old to go on trying."""
    return now - created_at > GIVE_UP
