"""The audit chain: each entry carries the hash of the one before, and is signed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from mlcycle_nb.clock import Clock
from mlcycle_nb.store import schema
from mlcycle_nb.store.keys import Anchor, key_id, signing_key
from mlcycle_nb.store.record import canonical_json, format_time

GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One stored entry: the exact bytes that were hashed, their hash, and the signature of that hash."""

    sequence: int
    body: str
    hash: str
    key_id: str
    signature: str


class Chain:
    """Appends entries inside the caller's transaction.

    The writer lock of the transaction makes appends follow one another, so reading the last entry and adding
    the next cannot interleave with another writer.
    """

    def __init__(self, log_id: str, clock: Clock) -> None:
        self.log_id = log_id
        self._clock = clock
        self._key = signing_key(log_id)
        self._key_id = key_id(self._key)
        self.appended: Anchor | None = None

    def append(
        self,
        connection: Connection,
        actor: str,
        event: str,
        subject: str,
        detail: Mapping[str, Any],
        reason: str,
        *,
        before: str | None,
        after: str | None,
    ) -> Anchor:
        """Add one entry and return its place and hash."""
        columns = schema.audit.c
        last = connection.execute(
            select(columns.sequence, columns.hash).order_by(columns.sequence.desc()).limit(1)
        ).one_or_none()
        sequence = 1 if last is None else last.sequence + 1
        body = canonical_json(
            {
                "log": self.log_id,
                "sequence": sequence,
                "time": format_time(self._clock.now()),
                "actor": actor,
                "event": event,
                "subject": subject,
                "detail": dict(detail),
                "reason": reason,
                "before": before,
                "after": after,
                "previous": GENESIS if last is None else last.hash,
            }
        )
        entry_hash = hash_body(body)
        signature = self._key.sign(entry_hash.encode()).hex()
        connection.execute(
            insert(schema.audit).values(
                sequence=sequence, body=body, hash=entry_hash, key_id=self._key_id, signature=signature
            )
        )
        self.appended = Anchor(sequence, entry_hash)
        return self.appended


def hash_body(body: str) -> str:
    """Return the SHA-256 of an entry's exact bytes."""
    return hashlib.sha256(body.encode()).hexdigest()
