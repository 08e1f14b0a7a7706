"""Reading, verifying and exporting the audit trail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Integer, select, type_coerce
from sqlalchemy.exc import DBAPIError

from mlcycle_nb.errors import IntegrityError, StoreError
from mlcycle_nb.store import schema
from mlcycle_nb.store.chain import GENESIS, AuditEntry, hash_body
from mlcycle_nb.store.database import first_line
from mlcycle_nb.store.keys import Anchor, AnchorFile, public_bytes, signing_key, trusted_keys, verify_signature
from mlcycle_nb.store.record import STATE_COLUMNS, canonical_json, state_digest
from mlcycle_nb.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AuditVerdict:
    """What a verification found."""

    intact: bool
    entries: int  # entries read
    first_bad: int | None  # sequence number of the first bad or missing entry
    problem: str  # empty when intact
    head: str  # hash of the last entry
    anchored: int  # sequence number of this user's last anchor, 0 when there is none
    clock_set_back_at: int | None  # first entry with an earlier time than the one before: worth a look, not broken

    def __repr__(self) -> str:
        if self.intact:
            back = "" if self.clock_set_back_at is None else f"; clock set back before entry {self.clock_set_back_at}"
            return (
                f"audit trail intact: {self.entries} entries, head {self.head[:12]}, anchored at {self.anchored}{back}"
            )
        return f"audit trail BROKEN at entry {self.first_bad}: {self.problem}"

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as plain JSON types."""
        return {name: getattr(self, name) for name in self.__slots__}


def entries(store: Store, *, after: int = 0) -> Iterator[AuditEntry]:
    """Yield stored entries in order."""
    with store.snapshot() as connection:
        yield from _read(connection, after=after)


def _read(connection: Connection, *, after: int = 0) -> Iterator[AuditEntry]:
    columns = schema.audit.c
    rows = connection.execute(select(schema.audit).where(columns.sequence > after).order_by(columns.sequence))
    for row in rows:
        yield AuditEntry(row.sequence, row.body, row.hash, row.key_id, row.signature)


def events(
    store: Store, *, subject: str | None = None, prefix: str | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """Return decoded entries, oldest first, of one subject or of subjects that begin with `prefix`."""
    found = []
    for entry in entries(store):
        try:
            body = json.loads(entry.body)
        except ValueError:
            raise IntegrityError(
                f"audit entry {entry.sequence} is not JSON", remedy="run mlcycle audit verify"
            ) from None
        if subject is not None and body["subject"] != subject:
            continue
        if prefix is not None and not body["subject"].startswith(prefix):
            continue
        found.append(body)
    return found if limit is None else found[-limit:]


def verify(store: Store) -> AuditVerdict:
    """Check every entry, the anchor, and that stored records are what the trail says they are.

    Finds edit, deletion, insertion, reordering, truncation, emptying, an older copy put back, a re-encoded
    entry, a suffix recomputed without the key, and a record changed behind the trail's back, even when it was
    changed again through the trail since. Somebody who holds this user's key and anchor can rewrite both: keep
    exported heads elsewhere.
    """
    anchor = AnchorFile(store.workspace_id).read()  # before the entries, which may grow meanwhile
    reading = _Reading(store.workspace_id, anchor)
    with store.snapshot() as connection:
        try:
            for entry in _read(connection):
                problem = reading.problem_of(entry)
                if problem:
                    return reading.broken(problem)
        except DBAPIError as failure:
            return reading.broken(f"it cannot be read: {first_line(failure)}")
        if anchor is not None and reading.count < anchor.sequence:
            what = "is empty" if reading.count == 0 else f"ends at entry {reading.count}"
            return reading.broken(
                f"the trail {what}, the anchor saw entry {anchor.sequence}: truncated or an older copy"
            )
        stored = _stored_states(connection)
    for subject in sorted(stored.keys() | reading.states.keys()):
        state = reading.states.get(subject)
        if state is None and subject in stored:
            return reading.broken(f"{subject} was added without an entry")
        if state is not None and state.digest != stored.get(subject):
            how = "changed" if subject in stored else "removed"
            return reading.broken(f"{subject} was {how} without an entry after it", at=state.sequence)
    return reading.verdict()


@dataclass(frozen=True, slots=True)
class _State:
    """What the trail says of a record: its digest, and the entry that says so."""

    digest: str
    sequence: int


class _Reading:
    """What is known while the trail is read from its beginning."""

    def __init__(self, log_id: str, anchor: Anchor | None) -> None:
        self._log_id = log_id
        self._anchor = anchor
        self._keys = trusted_keys(log_id)
        self._last_time = ""
        self._set_back_at: int | None = None
        self.count = 0
        self.head = GENESIS
        self.states: dict[str, _State] = {}

    def problem_of(self, entry: AuditEntry) -> str:
        """Return what is wrong with the next entry, or an empty text and remember it."""
        place = self.count + 1
        if entry.sequence != place:
            return f"entry {place} is missing; the next one found is {entry.sequence}"
        try:
            body = json.loads(entry.body)
            canonical = canonical_json(body) == entry.body
        except (ValueError, StoreError, RecursionError):
            return "its bytes are not JSON"
        if not canonical or not isinstance(body, dict):
            return "it was written again in another spelling"
        if hash_body(entry.body) != entry.hash:
            return "its bytes do not match its hash"
        if body.get("sequence") != place or body.get("log") != self._log_id:
            return "it belongs to another place or another trail"
        if body.get("previous") != self.head:
            return "it does not follow the entry before it"
        key = self._keys.get(entry.key_id)
        if key is None:
            return f"signed by a key that is not trusted here ({entry.key_id})"
        if not verify_signature(key, entry.signature, entry.hash.encode()):
            return "its signature is not of a trusted key"
        if self._anchor is not None and place == self._anchor.sequence and entry.hash != self._anchor.hash:
            return "it differs from the anchor kept outside the workspace: the trail was rewritten"
        # From here on the entry is what a holder of a trusted key wrote.
        known = self.states.get(body["subject"])
        if self._speaks_of_state(body) and body["before"] != (None if known is None else known.digest):
            return f"it changes a state of {body['subject']} that no entry made: changed without an entry before it"
        self._accept(entry, body)
        return ""

    @staticmethod
    def _speaks_of_state(body: dict[str, Any]) -> bool:
        return body["before"] is not None or body["after"] is not None

    def _accept(self, entry: AuditEntry, body: dict[str, Any]) -> None:
        self.count, self.head = entry.sequence, entry.hash
        if body["time"] < self._last_time and self._set_back_at is None:
            self._set_back_at = entry.sequence
        self._last_time = body["time"]
        if body["after"] is not None:
            self.states[body["subject"]] = _State(body["after"], entry.sequence)
        elif body["before"] is not None:
            del self.states[body["subject"]]

    def broken(self, problem: str, *, at: int | None = None) -> AuditVerdict:
        """Return the verdict on a broken trail; the first bad entry is the next one unless said otherwise."""
        return self._verdict(self.count + 1 if at is None else at, problem)

    def verdict(self) -> AuditVerdict:
        """Return the verdict on a trail without a problem."""
        return self._verdict(None, "")

    def _verdict(self, first_bad: int | None, problem: str) -> AuditVerdict:
        return AuditVerdict(
            intact=first_bad is None,
            entries=self.count,
            first_bad=first_bad,
            problem=problem,
            head=self.head,
            anchored=0 if self._anchor is None else self._anchor.sequence,
            clock_set_back_at=self._set_back_at,
        )


def _stored_states(connection: Connection) -> dict[str, str]:
    columns = schema.records.c
    # Read as a number: SQLite stores any, finds records by it, and SQLAlchemy would show 2 as True.
    active = type_coerce(columns.active, Integer).label("active")
    others = [columns[name] for name in STATE_COLUMNS if name != "active"]
    states = {}
    for row in connection.execute(select(columns.kind, columns.id, active, *others)).mappings():
        shown = {**row, "active": bool(row["active"]) if row["active"] in (0, 1) else row["active"]}
        try:
            states[f"{row['kind']}:{row['id']}"] = state_digest(shown)
        except StoreError:
            states[f"{row['kind']}:{row['id']}"] = "of a type that no record has"
    return states


def export(store: Store) -> dict[str, Any]:
    """Return the whole trail with its signed head, for keeping elsewhere."""
    verdict = verify(store)
    return {
        "workspace": store.workspace_id,
        "public_key": public_bytes(signing_key(store.workspace_id)).hex(),
        "verdict": verdict.to_dict(),
        "entries": [
            {
                "sequence": entry.sequence,
                "body": entry.body,
                "hash": entry.hash,
                "key_id": entry.key_id,
                "signature": entry.signature,
            }
            for entry in entries(store)
        ],
    }
