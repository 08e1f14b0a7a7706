"""The audit trail under random tampering: all of it is found, at the right entry, and nothing else is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from mlcycle_nb.errors import Conflict
from mlcycle_nb.store import Store, schema
from mlcycle_nb.store.audit import verify
from mlcycle_nb.store.keys import AnchorFile
from mlcycle_nb.testing import FakeClock
from mlcycle_nb.testing.records import Note
from mlcycle_nb.testing.tampering import TAMPERINGS, Tamper

from .conftest import NOW, Image, Trail

QUICK = settings(
    max_examples=12, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.timeout(180)
def test_tampering_is_found_at_the_first_bad_entry(trail: Trail) -> None:
    """Whatever was done and wherever: the verdict is broken, and names the first entry that is not as written."""
    assert verify(trail.store).intact
    for tamper in TAMPERINGS:
        _at_random_places(trail, tamper, named=True)


@pytest.mark.timeout(180)
def test_tampering_is_found_without_an_anchor(trail: Trail) -> None:
    """Somebody who never wrote here finds it too: what the entries do not show, the records do."""
    trail.forget_anchor()
    assert verify(trail.store).intact
    for tamper in TAMPERINGS:
        _at_random_places(trail, tamper, named=False)


def _at_random_places(trail: Trail, tamper: Tamper, *, named: bool) -> None:
    @QUICK
    @given(st.data())
    def check(data: st.DataObject) -> None:
        rows, first_bad = tamper(trail.whole.audit, lambda low, high: data.draw(st.integers(low, high)))
        replace(trail.whole, audit=rows).put(trail.store)
        verdict = verify(trail.store)

        assert not verdict.intact, tamper.__name__
        assert not named or verdict.first_bad == first_bad, (tamper.__name__, verdict)

    check()


def test_an_older_copy_put_back_is_found(trail: Trail) -> None:
    """The whole database of an earlier moment is consistent in itself; the anchor has seen more."""
    for entries, image in enumerate(trail.images[:-1]):
        image.put(trail.store)
        verdict = verify(trail.store)

        assert (verdict.intact, verdict.first_bad) == (False, entries + 1), verdict
        assert "truncated or an older copy" in verdict.problem


def test_work_that_goes_on_does_not_cover_up_a_cut(trail: Trail) -> None:
    """After an older copy was put back and used until it is longer than the trail was, it is still found."""
    trail.images[8].put(trail.store)
    for number in range(4):
        with trail.store.transaction(actor="unaware") as transaction:
            transaction.note("work.went_on", subject=f"work:{number}")
    verdict = verify(trail.store)

    assert not verdict.intact
    assert verdict.anchored == 10
    assert (verdict.first_bad, "the trail was rewritten" in verdict.problem) == (10, True)


CHANGES = {
    "name": "other",
    "phase": "done",
    "active": False,
    "lock_key": "k-other",
    "version": 99,
    "document": "{}",
    "created_at": "2020-01-01T00:00:00.000000Z",
}


def test_a_record_changed_behind_the_trail_is_found(trail: Trail) -> None:
    """Any column of a record, not its document alone; the entry named is the last one about it."""
    for column, value in CHANGES.items():
        trail.whole.put(trail.store)
        _change(trail.store, "a", **{column: value})
        verdict = verify(trail.store)

        assert (verdict.intact, verdict.first_bad) == (False, 10), column
        assert "note:a was changed without an entry" in verdict.problem


def test_a_flag_that_no_query_finds_is_found(
    tmp_path: Path, fake_clock: FakeClock, make_trail: Callable[[Store], Trail]
) -> None:
    """SQLite keeps 2 where a truth value belongs: `active = 1` does not find it, and Python reads it as true."""
    store = Store(tmp_path / ".mlcycle", fake_clock)
    make_trail(store)
    with store._writing() as connection:
        connection.exec_driver_sql("UPDATE records SET active = 2 WHERE id = 'a'")
    verdict = verify(store)
    store.close()

    assert not verdict.intact


def test_a_record_removed_behind_the_trail_is_found(trail: Trail) -> None:
    """Its last entry says that it should be there."""
    replace(trail.whole, records=[row for row in trail.whole.records if row["id"] != "b"]).put(trail.store)
    verdict = verify(trail.store)

    assert (verdict.intact, verdict.first_bad) == (False, 8)
    assert "note:b was removed without an entry" in verdict.problem


def test_a_record_added_behind_the_trail_is_found(trail: Trail) -> None:
    """Whether it is new, or was deleted with an entry and put back without one."""
    for id in ("never-there", "c"):
        added = {**trail.whole.records[0], "id": id, "lock_key": None}
        replace(trail.whole, records=[*trail.whole.records, added]).put(trail.store)
        verdict = verify(trail.store)

        assert (verdict.intact, verdict.first_bad) == (False, 11)
        assert f"note:{id} was added without an entry" in verdict.problem


def test_a_change_through_the_trail_does_not_cover_up_one_behind_it(trail: Trail) -> None:
    """The next honest entry says what it found, and that is not what the entry before it left."""
    _change(trail.store, "a", phase="smuggled")
    with trail.store.transaction(actor="honest") as transaction:
        found = transaction.get(Note, "a")
        transaction.update(replace(found, text="d"), event="note.changed")
    verdict = verify(trail.store)

    assert (verdict.intact, verdict.first_bad) == (False, 11)
    assert "changed without an entry before it" in verdict.problem


def test_a_clock_set_back_is_told_and_is_not_tampering(trail: Trail, fake_clock: FakeClock) -> None:
    """Machines' clocks are corrected: the verdict mentions it."""
    fake_clock.set_back(NOW - NOW.replace(year=2025))
    with trail.store.transaction(actor="tester") as transaction:
        transaction.note("x", subject="y")
    verdict = verify(trail.store)

    assert (verdict.intact, verdict.clock_set_back_at) == (True, 11)
    assert "clock set back before entry 11" in repr(verdict)


STEP = st.tuples(
    st.sampled_from(["insert", "update", "delete", "note", "undone", "observe", "conflict"]), st.sampled_from("abc")
)


@pytest.mark.timeout(120)
def test_no_false_alarm_on_good_trails(any_store: Store) -> None:
    """Any order of changes, failures and conflicts leaves a trail that verifies."""
    empty = Image.of(any_store)

    @settings(QUICK, max_examples=25)
    @given(st.lists(STEP, max_size=10))
    def check(steps: list[tuple[str, str]]) -> None:
        empty.put(any_store)
        AnchorFile(any_store.workspace_id).path.unlink(missing_ok=True)
        for kind, id in steps:
            _step(any_store, kind, id)
        verdict = verify(any_store)

        assert verdict.intact, verdict

    check()


@pytest.mark.timeout(120)
def test_no_false_alarm_while_others_write(open_store: Callable[[], Store]) -> None:
    """A verification sees one moment: entries and records of a change that commits meanwhile, or neither."""
    reader, writer, stop = open_store(), open_store(), threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            with writer.transaction(actor="w") as transaction:
                record = transaction.insert(Note(id="n", phase="open", created_at=NOW), event="note.made")
            while not stop.is_set():
                with writer.transaction(actor="w") as transaction:
                    record = transaction.update(replace(record, number=record.number + 1), event="note.changed")
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=write)
    thread.start()
    seen = set()
    try:
        while len(seen) < 8 and thread.is_alive():
            verdict = verify(reader)
            assert verdict.intact, verdict
            seen.add(verdict.entries)
    finally:
        stop.set()
        thread.join()

    assert failures == []


def _change(store: Store, id: str, **columns: Any) -> None:
    with store._writing() as connection:
        changed = connection.execute(update(schema.records).where(schema.records.c.id == id).values(**columns))
        assert changed.rowcount == 1


def _step(store: Store, kind: str, id: str) -> None:
    known = store.maybe(Note, id)
    fresh = Note(id=id, phase="open", created_at=NOW, holds="shared")
    if kind == "observe":
        store.observe(Note, id, seen=1)
        return
    try:
        with store.transaction(actor="tester") as transaction:
            if kind == "note":
                transaction.note("happened", subject=f"note:{id}")
            elif kind == "insert":
                transaction.insert(fresh, event="note.made")
            elif known is not None and kind == "update":
                transaction.update(replace(known, number=known.number + 1), event="note.changed")
            elif known is not None and kind == "delete":
                transaction.delete(known, event="note.gone")
            elif known is not None and kind == "conflict":
                transaction.note("before", subject="x")
                transaction.update(replace(known, version=known.version + 1), event="note.changed")
            elif kind == "undone":
                transaction.note("undone", subject="x")
                raise Conflict("undone on purpose")
    except Conflict:
        return
