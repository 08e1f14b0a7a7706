"""The smallest record that uses all that a store offers, for tests of stores and loops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlcycle_nb.store import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(Record):
    """A text that is active while its phase is ``open``, and may hold a lock key."""

    KIND: ClassVar[str] = "note"

    text: str = ""
    topic: str = ""
    number: float = 0.0
    holds: str | None = None

    @property
    def name(self) -> str:
        return self.topic

    @property
    def active(self) -> bool:
        return self.phase == "open"

    @property
    def lock_key(self) -> str | None:
        return self.holds
