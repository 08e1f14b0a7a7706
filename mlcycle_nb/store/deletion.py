"""What was deleted for good: the tombstone that keeps its name from being used as if it were still there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from mlcycle_nb.store.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion(Record):
    """The tombstone of a subject such as ``model_version:digits/3``; its id is the subject.

    Attributes
    ----------
    by, reason : str
        Who deleted it, and why.
    facts : dict
        What was known of it: digests, metrics, where it came from. Plain JSON types.
    """

    KIND: ClassVar[str] = "deletion"

    by: str
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.id.partition(":")[2].rpartition("/")[0] or self.id.partition(":")[2]

    @property
    def about(self) -> str:
        """What was deleted, without its kind: ``digits/3``."""
        return self.id.partition(":")[2]

    def told(self) -> str:
        """Return who deleted it and when, as the end of a sentence."""
        why = f": {self.reason}" if self.reason else ""
        return f"was deleted by {self.by} at {self.created_at:%Y-%m-%d %H:%M:%S} UTC{why}"
