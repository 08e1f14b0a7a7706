"""Reading, verifying and exporting the audit trail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from mlcycle_nb.store import schema
from mlcycle_nb.store.chain import GENESIS, AuditEntry, hash_body
from mlcycle_nb.store.keys import AnchorFile, public_bytes, signing_key, trusted_keys, verify_signature
from mlcycle_nb.store.record import canonical_json, digest
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

    def __repr__(self) -> str:
        if self.intact:
            return f"audit trail intact: {self.entries} entries, head {self.head[:12]}, anchored at {self.anchored}"
        return f"audit trail BROKEN at entry {self.first_bad}: {self.problem}"

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as plain JSON types."""
        return {name: getattr(self, name) for name in self.__slots__}


def entries(store: Store, *, after: int = 0) -> Iterator[AuditEntry]:
    """Yield stored entries in order."""
    columns = schema.audit.c
    with store.engine.connect() as connection, connection.begin():
        rows = connection.execute(select(schema.audit).where(columns.sequence > after).order_by(columns.sequence))
        for row in rows:
            yield AuditEntry(row.sequence, row.body, row.hash, row.key_id, row.signature)


def events(
    store: Store, *, subject: str | None = None, prefix: str | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """Return decoded entries, oldest first, of one subject or of subjects that begin with `prefix`."""
    found = []
    for entry in entries(store):
        body = json.loads(entry.body)
        if subject is not None and body["subject"] != subject:
            continue
        if prefix is not None and not body["subject"].startswith(prefix):
            continue
        found.append(body)
    return found if limit is None else found[-limit:]


def verify(store: Store) -> AuditVerdict:
    """Check every entry, the anchor, and that stored records are what the trail says they are.

    Finds edit, deletion, insertion, reordering, truncation, emptying, an older copy put back, a re-encoded
    entry, a suffix recomputed without the key, and a record changed behind the trail's back. Somebody who
    holds this user's key and anchor can rewrite both: keep exported heads elsewhere.
    """
    anchor = AnchorFile(store.workspace_id).read()
    anchored = 0 if anchor is None else anchor.sequence
    keys = trusted_keys(store.workspace_id)
    previous, count, last_time = GENESIS, 0, ""
    expected_states: dict[str, str | None] = {}

    def broken(sequence: int, problem: str) -> AuditVerdict:
        return AuditVerdict(
            intact=False, entries=count, first_bad=sequence, problem=problem, head=previous, anchored=anchored
        )

    for entry in entries(store):
        place = count + 1
        if entry.sequence != place:
            return broken(place, f"entry {place} is missing; the next one found is {entry.sequence}")
        try:
            body = json.loads(entry.body)
            canonical = canonical_json(body) == entry.body
        except ValueError:
            return broken(place, "its bytes are not JSON")
        if not canonical:
            return broken(place, "it was written again in another spelling")
        if hash_body(entry.body) != entry.hash:
            return broken(place, "its bytes do not match its hash")
        if body.get("sequence") != place or body.get("log") != store.workspace_id:
            return broken(place, "it belongs to another place or another trail")
        if body.get("previous") != previous:
            return broken(place, "it does not follow the entry before it")
        key = keys.get(entry.key_id)
        if key is None:
            return broken(place, f"signed by a key that is not trusted here ({entry.key_id})")
        if not verify_signature(key, entry.signature, entry.hash.encode()):
            return broken(place, "its signature is not of a trusted key")
        if anchor is not None and place == anchor.sequence and entry.hash != anchor.hash:
            return broken(place, "it differs from the anchor kept outside the workspace: the trail was rewritten")
        count, previous = place, entry.hash
        last_time = max(last_time, body["time"])
        if body["before"] is not None or body["after"] is not None:
            expected_states[body["subject"]] = body["after"]
    if anchor is not None and count < anchor.sequence:
        what = "is empty" if count == 0 else f"ends at entry {count}"
        return broken(
            count + 1, f"the trail {what}, the anchor saw entry {anchor.sequence}: truncated or an older copy"
        )
    difference = _state_difference(store, expected_states)
    if difference:
        return broken(count, difference)
    return AuditVerdict(intact=True, entries=count, first_bad=None, problem="", head=previous, anchored=anchored)


def _state_difference(store: Store, expected: dict[str, str | None]) -> str:
    columns = schema.records.c
    with store.engine.connect() as connection, connection.begin():
        stored = {
            f"{row.kind}:{row.id}": digest(row.document)
            for row in connection.execute(select(columns.kind, columns.id, columns.document))
        }
    for subject, found in stored.items():
        if expected.get(subject) != found:
            return f"{subject} was changed without an entry"
    for subject, recorded in expected.items():
        if recorded is not None and subject not in stored:
            return f"{subject} was removed without an entry"
    return ""


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
