"""The audit chain: each entry carries the hash of the one before, and is signed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from mlcycle_nb.clock import Clock
from mlcycle_nb.errors import IntegrityError
from mlcycle_nb.store import schema
from mlcycle_nb.store.keys import Anchor, AnchorFile, key_id, signing_key
from mlcycle_nb.store.record import canonical_json, format_time

logger = logging.getLogger(__name__)
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
        self._anchor = AnchorFile(log_id)
        self._continues: bool | None = None
        self._appended: Anchor | None = None

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
        if self._continues is None:
            self._continues = self._follows_anchor(connection, None if last is None else Anchor(*last))
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
        self._appended = Anchor(sequence, entry_hash)
        return self._appended

    def advance_anchor(self) -> None:
        """Remember the last entry outside the workspace, once the transaction has committed.

        A trail that was cut or replaced since the last anchor keeps that anchor: work that goes on must not
        cover up what happened.
        """
        if self._appended is None:
            return
        if not self._continues:
            logger.warning("the audit trail does not continue from the last anchor: run mlcycle audit verify")
            return
        try:
            self._anchor.advance(self._appended)
        except OSError as failure:  # the change is committed: an older anchor is still true, only less sharp
            logger.warning("the audit trail's anchor could not be written: %s", failure)

    def _follows_anchor(self, connection: Connection, last: Anchor | None) -> bool:
        try:
            anchor = self._anchor.read()
        except IntegrityError:
            return False
        if anchor is None or anchor == last:
            return True
        columns = schema.audit.c
        found = connection.execute(select(columns.hash).where(columns.sequence == anchor.sequence)).scalar_one_or_none()
        return found == anchor.hash


def hash_body(body: str) -> str:
    """Return the SHA-256 of an entry's exact bytes."""
    return hashlib.sha256(body.encode()).hexdigest()
