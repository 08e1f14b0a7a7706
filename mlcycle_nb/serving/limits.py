"""Bounds of a replica, each enforced before the work it bounds."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from mlcycle_nb.errors import InvalidSettings, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one replica takes at most."""

    body_bytes: int = 1_048_576
    rows: int = 4096
    batch_rows: int = 512
    queued_rows: int = 65_536
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    drain_seconds: float = 0.2
    stop_seconds: float = 30.0

    @classmethod
    def from_json(cls, form: dict[str, Any]) -> Limits:
        """Read limits; an unknown key or a value that is no positive number is refused."""
        known = {field.name: field.type for field in fields(cls)}
        for key, value in form.items():
            if key not in known:
                raise InvalidSettings("unknown replica limit", value=key, remedy=did_you_mean(key, known))
            whole = known[key] == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not 0 <= value < 1e9:
                raise InvalidSettings(f"limit {key} must be a positive number", value=value)
        return cls(**form)
