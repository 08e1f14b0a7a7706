"""Every way to tamper with an audit trail that we know, as functions from good rows to bad ones.

Each returns the changed rows and the number of the first bad entry. Rows are those of the ``audit`` table, as plain
dictionaries, in order. ``choose(low, high)`` gives a number from `low` to `high`: a test's random source.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mlcycle_nb.store.chain import GENESIS, hash_body
from mlcycle_nb.store.keys import key_id
from mlcycle_nb.store.record import canonical_json

Rows = list[dict[str, Any]]
Choose = Callable[[int, int], int]
Tamper = Callable[[Rows, Choose], tuple[Rows, int]]


def edited(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Change what an entry says, and leave its hash."""
    place = choose(1, len(rows))
    field = ("actor", "event", "subject", "reason", "time")[choose(0, 4)]
    return _with(rows, place, body=_changed(rows[place - 1], **{field: "changed"})), place


def edited_with_its_hash(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Change what an entry says, and its hash with it."""
    place = choose(1, len(rows))
    body = _changed(rows[place - 1], actor="somebody else")
    return _with(rows, place, body=body, hash=hash_body(body)), place


def one_character(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Change one character of any column of an entry."""
    place = choose(1, len(rows))
    column = ("body", "hash", "key_id", "signature")[choose(0, 3)]
    text = str(rows[place - 1][column])
    at = choose(0, len(text) - 1)
    other = "x" if text[at] != "x" else "y"
    return _with(rows, place, **{column: text[:at] + other + text[at + 1 :]}), place


def signature_in_capitals(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Write a signature's digits in another spelling."""
    place = choose(1, len(rows))
    return _with(rows, place, signature=str(rows[place - 1]["signature"]).upper()), place


def deleted(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Remove an entry that is not the last."""
    place = choose(1, len(rows) - 1)
    return rows[: place - 1] + rows[place:], place


def deleted_and_closed_up(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Remove an entry and number the others anew."""
    place = choose(1, len(rows) - 1)
    return _numbered(rows[: place - 1] + rows[place:]), place


def inserted(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Put a made-up entry between two, and number the others anew."""
    place = choose(1, len(rows))
    previous = GENESIS if place == 1 else rows[place - 2]["hash"]
    body = _changed(rows[place - 1], event="never.happened", sequence=place, previous=previous)
    forged = {**rows[place - 1], "body": body, "hash": hash_body(body)}
    return _numbered([*rows[: place - 1], forged, *rows[place - 1 :]]), place


def duplicated(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Repeat an entry after itself."""
    place = choose(1, len(rows))
    return _numbered([*rows[:place], dict(rows[place - 1]), *rows[place:]]), place + 1


def reordered(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Exchange two entries."""
    first = choose(1, len(rows) - 1)
    second = choose(first + 1, len(rows))
    changed = list(rows)
    changed[first - 1], changed[second - 1] = rows[second - 1], rows[first - 1]
    return _numbered(changed), first


def truncated(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Cut the tail off."""
    left = choose(1, len(rows) - 1)
    return rows[:left], left + 1


def emptied(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Remove all entries."""
    return [], 1


def recomputed_with_old_signatures(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Change an entry and chain all later ones to it, without a key."""
    place = choose(1, len(rows))
    return _rechained(rows, place, None, None), place


def recomputed_with_another_key(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Change an entry, chain all later ones to it, and sign them with a key of one's own."""
    place = choose(1, len(rows))
    key = Ed25519PrivateKey.generate()
    return _rechained(rows, place, key, key_id(key)), place


def recomputed_under_the_right_name(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Sign with a key of one's own, and name the workspace's key."""
    place = choose(1, len(rows))
    return _rechained(rows, place, Ed25519PrivateKey.generate(), None), place


def keys_in_another_order(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Write an entry's keys in reverse."""
    return _respelt(rows, choose, lambda body: _json(dict(reversed(json.loads(body).items()))))


def spaces_added(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Write an entry with spaces after its commas."""
    return _respelt(rows, choose, lambda body: json.dumps(json.loads(body), sort_keys=True))


def letters_as_escapes(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Write a letter as a unicode escape."""
    return _respelt(rows, choose, lambda body: body.replace('"actor"', '"\\u0061ctor"', 1))


def escapes_as_letters(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Write a unicode escape as the letter itself."""
    return _respelt(rows, choose, lambda body: body.replace("\\u00fc", "ü"))


def numbers_in_another_spelling(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Write 0.5 as 5e-1."""
    return _respelt(rows, choose, lambda body: body.replace("0.5", "5e-1"))


def keys_given_twice(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Give a key twice: readers differ in which of the two counts."""
    return _respelt(rows, choose, lambda body: '{"actor":"nobody",' + body[1:])


def no_json(rows: Rows, choose: Choose) -> tuple[Rows, int]:
    """Put something that is no JSON object in the place of an entry."""
    body = ("", "{", "[]", "null", "NaN", "[" * 100_000, '"\\ud800"', "1" * 5000)[choose(0, 7)]
    place = choose(1, len(rows))
    return _with(rows, place, body=body, hash=hash_body(body)), place


TAMPERINGS: tuple[Tamper, ...] = (
    edited,
    edited_with_its_hash,
    one_character,
    signature_in_capitals,
    deleted,
    deleted_and_closed_up,
    inserted,
    duplicated,
    reordered,
    truncated,
    emptied,
    recomputed_with_old_signatures,
    recomputed_with_another_key,
    recomputed_under_the_right_name,
    keys_in_another_order,
    spaces_added,
    letters_as_escapes,
    escapes_as_letters,
    numbers_in_another_spelling,
    keys_given_twice,
    no_json,
)


def resigned(row: dict[str, Any], body: str, key: Ed25519PrivateKey) -> dict[str, Any]:
    """Return `row` with another body, hashed and signed with `key`: what only a holder of the key can make."""
    digest = hash_body(body)
    return {**row, "body": body, "hash": digest, "key_id": key_id(key), "signature": key.sign(digest.encode()).hex()}


def _with(rows: Rows, place: int, **columns: Any) -> Rows:
    return [{**row, **columns} if row["sequence"] == place else row for row in rows]


def _numbered(rows: Rows) -> Rows:
    return [{**row, "sequence": number} for number, row in enumerate(rows, 1)]


def _changed(row: dict[str, Any], **fields: Any) -> str:
    return canonical_json({**json.loads(row["body"]), **fields})


def _json(body: dict[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":"))


def _respelt(rows: Rows, choose: Choose, spell: Callable[[str], str]) -> tuple[Rows, int]:
    place = choose(1, len(rows))
    body = spell(rows[place - 1]["body"])
    assert body != rows[place - 1]["body"], "this spelling changes nothing: the trail under test lacks what it changes"
    columns = {"body": body, "hash": hash_body(body)} if choose(0, 1) else {"body": body}
    return _with(rows, place, **columns), place


def _rechained(rows: Rows, place: int, key: Ed25519PrivateKey | None, name: str | None) -> Rows:
    changed = rows[: place - 1]
    previous = changed[-1]["hash"] if changed else GENESIS
    for row in rows[place - 1 :]:
        fields = {"previous": previous} | ({"reason": "rewritten"} if row["sequence"] == place else {})
        body = _changed(row, **fields)
        digest = hash_body(body)
        new = {**row, "body": body, "hash": digest}
        if key is not None:
            new |= {"signature": key.sign(digest.encode()).hex(), "key_id": name or row["key_id"]}
        changed.append(new)
        previous = digest
    return changed
