"""Each check of `verify`, alone: a trail that only this check can tell from a good one, or tells by this name.

Drop a check from `mlcycle_nb/store/audit.py` and its test here fails. Entries are made with the workspace's own key
where the checks before it would speak first otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, select

from mlcycle_nb.errors import IntegrityError, InvalidInput
from mlcycle_nb.store import Store, schema
from mlcycle_nb.store.audit import AuditVerdict, events, export, verify
from mlcycle_nb.store.keys import AnchorFile, public_bytes, signing_key, trust
from mlcycle_nb.store.record import canonical_json
from mlcycle_nb.testing import FakeClock
from mlcycle_nb.testing.tampering import resigned

Rows = list[dict[str, Any]]


@pytest.fixture
def store(tmp_path: Path, fake_clock: FakeClock) -> Any:
    """Three entries that are about no record, so that only the entries themselves can speak."""
    opened = Store(tmp_path / ".mlcycle", fake_clock)
    for number in range(3):
        write(opened, number)
    yield opened
    opened.close()


def write(store: Store, number: int) -> None:
    with store.transaction(actor="tester") as transaction:
        transaction.note("counted", subject="counter:1", detail={"number": number})


def rows_of(store: Store) -> Rows:
    with store.snapshot() as connection:
        return [dict(row) for row in connection.execute(select(schema.audit)).mappings()]


def verdict_on(store: Store, rows: Rows, *, anchor: bool = False) -> AuditVerdict:
    """Put `rows` in the place of the trail; by default for somebody who has no anchor."""
    with store._writing() as connection:
        connection.execute(delete(schema.audit))
        connection.execute(insert(schema.audit), rows) if rows else None
    if not anchor:
        AnchorFile(store.workspace_id).path.unlink()
    return verify(store)


def forged(store: Store, row: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return an entry that says something else, made by a holder of the key."""
    return resigned(row, canonical_json({**json.loads(row["body"]), **fields}), signing_key(store.workspace_id))


def found(verdict: AuditVerdict) -> tuple[int | None, str]:
    return verdict.first_bad, verdict.problem


def test_a_gap(store: Store) -> None:
    """The check of the row's number: the entry after the gap is named for what it is."""
    rows = rows_of(store)

    assert found(verdict_on(store, [rows[0], rows[2]])) == (2, "entry 2 is missing; the next one found is 3")


def test_no_json(store: Store) -> None:
    """The check that an entry can be read at all: without it, verification itself would fail."""
    rows = rows_of(store)
    rows[1] = resigned(rows[1], "{", signing_key(store.workspace_id))

    assert found(verdict_on(store, rows)) == (2, "its bytes are not JSON")


def test_json_but_no_entry(store: Store) -> None:
    """The check that it is an object."""
    rows = rows_of(store)
    rows[1] = resigned(rows[1], "[]", signing_key(store.workspace_id))

    assert found(verdict_on(store, rows))[0] == 2


def test_bytes_that_are_no_text(store: Store) -> None:
    """The check that the database can hand the entry over: SQLite stores bytes that are not UTF-8."""
    with store._writing() as connection:
        connection.exec_driver_sql("UPDATE audit SET body = CAST(X'7BFF7D' AS TEXT) WHERE sequence = 2")
    verdict = verify(store)

    assert (verdict.first_bad, verdict.problem.startswith("it cannot be read: ")) == (2, True)


def test_another_spelling(store: Store) -> None:
    """The check of the spelling: the last entry, written again and signed with the key, is wrong by nothing else."""
    rows = rows_of(store)
    rows[2] = resigned(rows[2], json.dumps(json.loads(rows[2]["body"])), signing_key(store.workspace_id))

    assert found(verdict_on(store, rows)) == (3, "it was written again in another spelling")


def test_another_content(store: Store) -> None:
    """The check of the hash: the signature is of the hash, so it still holds."""
    rows = rows_of(store)
    rows[2]["body"] = canonical_json({**json.loads(rows[2]["body"]), "reason": "invented"})

    assert found(verdict_on(store, rows)) == (3, "its bytes do not match its hash")


def test_another_number(store: Store) -> None:
    """The check of the number inside the entry: a last entry that calls itself the ninth."""
    rows = rows_of(store)
    rows[2] = forged(store, rows[2], sequence=9)

    assert found(verdict_on(store, rows)) == (3, "it belongs to another place or another trail")


def test_another_workspace(store: Store, tmp_path: Path, fake_clock: FakeClock) -> None:
    """The check of the trail's name: an entry of a workspace whose key is trusted, moved here."""
    other = Store(tmp_path / "other", fake_clock)
    write(other, 0)
    moved = rows_of(other)
    other.close()
    trust(store.workspace_id, public_bytes(signing_key(other.workspace_id)).hex())

    assert found(verdict_on(store, moved)) == (1, "it belongs to another place or another trail")


def test_another_predecessor(store: Store) -> None:
    """The check of the chain: an earlier entry was changed by a holder of the key, who did not chain the next one."""
    rows = rows_of(store)
    rows[1] = forged(store, rows[1], reason="rewritten")

    assert found(verdict_on(store, rows)) == (3, "it does not follow the entry before it")


def test_an_unknown_key(store: Store) -> None:
    """The check of the key: a good signature of somebody who is not trusted here."""
    rows = rows_of(store)
    stranger = signing_key("another-workspace")
    rows[2] = resigned(rows[2], rows[2]["body"], stranger)
    verdict = verdict_on(store, rows)

    assert found(verdict) == (3, f"signed by a key that is not trusted here ({rows[2]['key_id']})")
    trust(store.workspace_id, public_bytes(stranger).hex())
    assert verify(store).intact


@pytest.mark.parametrize("spoil", [lambda s: s[::-1], str.upper, lambda s: "", lambda s: s[:-2], lambda s: "zz"])
def test_an_unsigned_entry(store: Store, spoil: Callable[[str], str]) -> None:
    """The check of the signature, in its one spelling."""
    rows = rows_of(store)
    rows[2]["signature"] = spoil(rows[2]["signature"])

    assert found(verdict_on(store, rows)) == (3, "its signature is not of a trusted key")


def test_a_trail_rewritten_with_the_key(store: Store) -> None:
    """The check of the anchor's hash: all else was made anew by a holder of the key."""
    rows = rows_of(store)
    rows[2] = forged(store, rows[2], reason="rewritten")
    verdict = verdict_on(store, rows, anchor=True)

    assert verdict.first_bad == 3
    assert "differs from the anchor" in verdict.problem


@pytest.mark.parametrize(("left", "words"), [(2, "the trail ends at entry 2"), (0, "the trail is empty")])
def test_a_cut_trail(store: Store, left: int, words: str) -> None:
    """The check of the anchor's number: what is left is good in itself."""
    verdict = verdict_on(store, rows_of(store)[:left], anchor=True)

    assert verdict.first_bad == left + 1
    assert verdict.problem == f"{words}, the anchor saw entry 3: truncated or an older copy"


def test_a_damaged_anchor_is_no_intact_trail(store: Store) -> None:
    """Without its anchor a trail could be cut: verification refuses to say anything, and work goes on."""
    path = AnchorFile(store.workspace_id).path
    path.write_text("")

    with pytest.raises(IntegrityError, match="anchor of the audit trail is damaged"):
        verify(store)
    write(store, 3)
    assert path.read_text() == ""


def test_an_anchor_that_cannot_be_written_undoes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The change is committed by then: its caller must not be told that it failed."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AnchorFile, "advance", full)
    write(store, 3)

    assert verify(store).entries == 4
    assert "anchor could not be written" in caplog.text


def test_events_of_a_spoilt_trail(store: Store) -> None:
    """Showing entries that cannot be read says so in one line."""
    rows = rows_of(store)
    rows[1]["body"] = "{"
    verdict_on(store, rows)

    with pytest.raises(IntegrityError, match="audit entry 2 is not JSON - run mlcycle audit verify"):
        events(store)


def test_events_by_subject_and_prefix(store: Store) -> None:
    """A subject, the subjects that begin alike, and the last few."""
    with store.transaction(actor="tester") as transaction:
        transaction.note("x", subject="other:1")

    assert [e["sequence"] for e in events(store, subject="counter:1")] == [1, 2, 3]
    assert [e["sequence"] for e in events(store, prefix="other:")] == [4]
    assert [e["sequence"] for e in events(store, limit=2)] == [3, 4]


def test_an_export_can_be_checked_elsewhere(store: Store) -> None:
    """It holds all that another machine needs: entries, hashes, signatures, the public key and the head."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    tree = json.loads(json.dumps(export(store)))
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(tree["public_key"]))
    for entry in tree["entries"]:
        key.verify(bytes.fromhex(entry["signature"]), entry["hash"].encode())

    assert tree["verdict"]["intact"] is True
    assert tree["entries"][-1]["hash"] == tree["verdict"]["head"]


@pytest.mark.parametrize("text", ["", "xyz", "00", "é" * 64])
def test_a_key_that_is_none_is_refused(store: Store, text: str) -> None:
    """Trusting takes 64 hexadecimal digits; a spoilt file among the trusted ones is named."""
    with pytest.raises(InvalidInput, match="not an Ed25519 public key"):
        trust(store.workspace_id, text)
    trust(store.workspace_id, public_bytes(signing_key("colleague")).hex())
    next((AnchorFile(store.workspace_id).path.parent / f"{store.workspace_id}.trusted").iterdir()).write_text(text)

    with pytest.raises(InvalidInput, match=r"not an Ed25519 public key.*\.pub"):
        verify(store)
