"""What an alert channel promises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mlcycle_nb.context import Context

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of one attempt.

    Attributes
    ----------
    delivered : bool
    retry : bool
        Whether another attempt makes sense.
    detail : str
        What happened, in one line, without secrets.
    retry_after_seconds : float, optional
        The wait that the receiver asked for.
    """

    delivered: bool
    retry: bool = False
    detail: str = ""
    retry_after_seconds: float | None = None


class Channel(Protocol):
    """Delivers one message. It may be called again with the same key: the receiver can tell by it."""

    def deliver(self, context: Context, key: str, message: Message) -> Delivery:
        """Try once; never waits longer than a few seconds, and never raises for what the receiver does."""
        ...
