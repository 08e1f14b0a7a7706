"""What every store promises, on each kind of database."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update

from mlcycle_nb.errors import Conflict, NotFound, StoreError
from mlcycle_nb.store import Store, schema
from mlcycle_nb.store.audit import events, verify
from mlcycle_nb.testing import FakeClock
from mlcycle_nb.testing.records import Note

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def note(id: str = "n1", **fields: object) -> Note:
    return Note(**{"id": id, "phase": "open", "created_at": NOW, **fields})  # type: ignore[arg-type]


def put(store: Store, record: Note) -> Note:
    with store.transaction(actor="tester") as transaction:
        return transaction.insert(record, event="note.made")


class TestRecords:
    """Records are inserted, read, replaced and deleted, each with its audit event."""

    def test_what_was_stored_is_read_back(self, any_store: Store) -> None:
        """A record comes back equal but for its row version."""
        stored = put(any_store, note(text="grüße \u0000 \ud83d\ude00 '", number=0.1 + 0.2))

        assert any_store.get(Note, "n1") == stored == replace(note(text=stored.text, number=0.1 + 0.2), version=1)

    def test_an_update_moves_the_version(self, any_store: Store) -> None:
        """Each update stores the next version."""
        first = put(any_store, note())
        with any_store.transaction(actor="tester") as transaction:
            second = transaction.update(replace(first, phase="done"), event="note.done")

        assert (second.version, any_store.get(Note, "n1").phase) == (2, "done")

    def test_an_update_of_a_stale_version_is_a_conflict(self, any_store: Store) -> None:
        """Of two who read the same version, the second to write loses, and nothing of hers is stored."""
        first = put(any_store, note())
        with any_store.transaction(actor="a") as transaction:
            transaction.update(replace(first, text="a"), event="note.changed")

        def change_too() -> None:
            with any_store.transaction(actor="b") as other:
                other.note("before", subject="x")
                other.update(replace(first, text="b"), event="note.changed")

        with pytest.raises(Conflict, match="changed by somebody else"):
            change_too()

        assert any_store.get(Note, "n1").text == "a"
        assert [event["event"] for event in events(any_store)] == ["note.made", "note.changed"]

    def test_a_delete_of_a_stale_version_is_a_conflict(self, any_store: Store) -> None:
        """Deleting what somebody else has changed since is refused."""
        first = put(any_store, note())
        with any_store.transaction(actor="a") as transaction:
            transaction.update(replace(first, text="a"), event="note.changed")

        with pytest.raises(Conflict), any_store.transaction(actor="b") as other:
            other.delete(first, event="note.gone")

        assert any_store.maybe(Note, "n1") is not None

    def test_a_second_record_of_the_same_id_is_a_conflict(self, any_store: Store) -> None:
        """Ids are unique within a kind; the transaction of the loser can go on."""
        put(any_store, note())
        with any_store.transaction(actor="tester") as transaction:
            with pytest.raises(Conflict, match="note n1 exists already"):
                transaction.insert(note(), event="note.made")
            transaction.insert(note("n2"), event="note.made")

        assert any_store.maybe(Note, "n2") is not None
        assert verify(any_store).intact

    def test_a_lock_key_has_one_holder(self, any_store: Store) -> None:
        """The refusal names the holder; once it lets go, the next may hold."""
        holder = put(any_store, note("a", holds="production/digits"))

        with pytest.raises(Conflict, match=r"note a \(open\) holds production/digits"):
            put(any_store, note("b", holds="production/digits"))
        with any_store.transaction(actor="tester") as transaction:
            transaction.update(replace(holder, phase="done", holds=None), event="note.done")

        assert put(any_store, note("b", holds="production/digits")).lock_key == "production/digits"

    def test_an_update_cannot_take_a_held_lock_key(self, any_store: Store) -> None:
        """The lock holds for updates as for inserts."""
        put(any_store, note("a", holds="k"))
        other = put(any_store, note("b"))

        with pytest.raises(Conflict, match="holds k"), any_store.transaction(actor="tester") as transaction:
            transaction.update(replace(other, holds="k"), event="note.grab")

    def test_not_found_names_what_exists(self, any_store: Store) -> None:
        """The error lists known ids, or says that there are none."""
        with pytest.raises(NotFound, match="none yet"):
            any_store.get(Note, "n1")
        put(any_store, note("n2"))

        with pytest.raises(NotFound, match=r"no note of this id \(got 'n1'\) - known: n2"):
            any_store.get(Note, "n1")

    def test_find_matches_all_criteria(self, any_store: Store) -> None:
        """Name, phase, activity, order and limit work together."""
        for index, (topic, phase) in enumerate([("x", "open"), ("x", "done"), ("y", "open"), ("x", "held")]):
            put(any_store, note(f"n{index}", topic=topic, phase=phase, created_at=NOW + timedelta(seconds=index)))

        def ids(**criteria: object) -> list[str]:
            return [found.id for found in any_store.find(Note, **criteria)]  # type: ignore[arg-type]

        assert ids() == ["n3", "n2", "n1", "n0"]
        assert ids(name="x", newest_first=False) == ["n0", "n1", "n3"]
        assert ids(name="x", phase=["open", "done"]) == ["n1", "n0"]
        assert ids(active=True) == ["n2", "n0"]
        assert ids(active=False, limit=1) == ["n3"]
        assert any_store.counts() == {"note": 4}

    def test_a_raised_block_changes_nothing(self, any_store: Store) -> None:
        """Records and events of a transaction that raises are undone together."""

        def fail() -> None:
            with any_store.transaction(actor="tester") as transaction:
                transaction.insert(note(), event="note.made")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()

        assert any_store.counts() == {}
        assert verify(any_store).entries == 0

    def test_a_record_of_another_release_is_named(self, any_store: Store) -> None:
        """A document that the class cannot take is one clear error, not a converter's tree of causes."""
        put(any_store, note())
        with any_store._writing() as connection:
            connection.execute(update(schema.records).values(document='{"id":"n1","number":"many"}'))

        with pytest.raises(StoreError, match="a stored note cannot be read") as caught:
            any_store.find(Note)

        assert "\n" not in str(caught.value)

    def test_what_is_not_json_is_refused(self, any_store: Store) -> None:
        """NaN has no JSON spelling: it is refused before anything is written."""
        with pytest.raises(StoreError, match="cannot be stored as JSON"):
            put(any_store, note(number=float("nan")))

        assert any_store.counts() == {}

    def test_an_endless_id_is_refused(self, any_store: Store) -> None:
        """Ids have a limit that both databases share."""
        with pytest.raises(StoreError, match="over 200"):
            put(any_store, note("x" * 201))

    def test_what_the_database_refuses_is_one_line(self, any_store: Store) -> None:
        """The driver's words become our one-line error, and the engine's SQL is not shown."""
        with pytest.raises(StoreError, match="the workspace database failed") as caught, any_store._writing() as w:
            w.execute(insert(schema.meta).values(key="k", value=None))

        assert "\n" not in str(caught.value)
        assert "INSERT" not in str(caught.value)


class TestMoments:
    """Readers see one moment, writers take turns."""

    def test_a_snapshot_sees_one_moment(self, open_store: Callable[[], Store]) -> None:
        """What commits meanwhile is not in it, however many statements it runs."""
        reader, writer = open_store(), open_store()
        put(writer, note("before"))
        with reader.snapshot() as connection:
            first = connection.execute(select(schema.records.c.id)).scalars().all()
            put(writer, note("meanwhile"))
            entries = connection.execute(select(schema.audit.c.sequence)).scalars().all()

        assert (first, entries) == (["before"], [1])
        assert reader.counts() == {"note": 2}

    @pytest.mark.timeout(60)
    def test_a_writer_waits_for_the_one_before(self, open_store: Callable[[], Store]) -> None:
        """The second reads what the first has written, so neither change is lost and neither is refused."""
        first, second = open_store(), open_store()
        put(first, note())
        second_has_read = threading.Event()

        def add_one() -> None:
            with second.transaction(actor="second") as transaction:
                record = transaction.get(Note, "n1")
                second_has_read.set()
                transaction.update(replace(record, number=record.number + 1), event="note.added")

        with ThreadPoolExecutor(1) as pool:
            with first.transaction(actor="first") as transaction:
                record = transaction.get(Note, "n1")
                adding = pool.submit(add_one)
                waited = not second_has_read.wait(0.3)
                transaction.update(replace(record, number=record.number + 1), event="note.added")
            adding.result()

        assert waited
        assert first.get(Note, "n1").number == 2


class TestObservationsAndMeasurements:
    """What was seen is kept without audit events."""

    def test_observations_merge(self, any_store: Store) -> None:
        """Later values win, others stay; deleting the record takes them along."""
        stored = put(any_store, note())
        any_store.observe(Note, "n1", pid=1, error="x")
        any_store.observe(Note, "n1", error="", seen=NOW)

        assert any_store.observed(Note, "n1") == {"pid": 1, "error": "", "seen": "2026-01-01T00:00:00.000000Z"}
        with any_store.transaction(actor="tester") as transaction:
            transaction.delete(stored, event="note.gone")
        assert any_store.observed(Note, "n1") == {}
        assert verify(any_store).entries == 2

    def test_measurements_are_a_series(self, any_store: Store) -> None:
        """They come back oldest first, by kind and since a time; `limit` keeps the newest."""
        rows = [{"time": NOW + timedelta(minutes=i), "kind": "even" if i % 2 == 0 else "odd", "i": i} for i in range(6)]
        any_store.add_measurements("m", rows)
        any_store.add_measurements("other", rows[:1])
        any_store.add_measurements("m", [])

        assert [r["i"] for r in any_store.measurements("m")] == [0, 1, 2, 3, 4, 5]
        assert [r["i"] for r in any_store.measurements("m", kind="odd", limit=2)] == [3, 5]
        assert [r["i"] for r in any_store.measurements("m", since=NOW + timedelta(minutes=4))] == [4, 5]
        assert any_store.measurements("m")[0] == {"time": NOW, "kind": "even", "i": 0}

    def test_pruning_keeps_the_newest(self, any_store: Store) -> None:
        """Only the owner's oldest go."""
        rows = [{"time": NOW, "kind": "k", "i": i} for i in range(5)]
        any_store.add_measurements("m", rows)
        any_store.add_measurements("other", rows)

        assert any_store.prune_measurements("m", keep=2) == 3
        assert any_store.prune_measurements("m", keep=2) == 0
        assert [r["i"] for r in any_store.measurements("m")] == [3, 4]
        assert len(any_store.measurements("other")) == 5

    def test_a_time_without_zone_is_refused(self, any_store: Store) -> None:
        """A naive time could be any time."""
        with pytest.raises(StoreError, match="without time zone"):
            any_store.add_measurements("m", [{"time": NOW.replace(tzinfo=None), "kind": "k"}])


class TestLeadership:
    """Fencing numbers only rise, and a leader that was replaced cannot write."""

    def test_a_stale_leader_is_refused(self, open_store: Callable[[], Store]) -> None:
        """After another has taken the lead, the first one's transaction is a conflict and changes nothing."""
        old, new = open_store(), open_store()
        assert (old.take_lead("old"), new.take_lead("new")) == (1, 2)

        with pytest.raises(Conflict, match=r"fence 1.* newer leader \(fence 2\)"):
            put(old, note())

        assert new.leader() == ("new", 2)
        assert new.counts() == {}
        assert put(new, note()).version == 1

    def test_clients_are_not_fenced(self, open_store: Callable[[], Store]) -> None:
        """A notebook writes whoever leads."""
        client = open_store()
        assert client.leader() is None
        open_store().take_lead("leader")

        assert put(client, note()).version == 1


class TestFiles:
    """Nobody but the user can read the workspace or the keys."""

    def test_modes(self, tmp_path: Path, fake_clock: FakeClock, keys_of_their_own: Path) -> None:
        """Folders are 0700 and files 0600, the database's own side files too, whatever the umask."""
        store = Store(tmp_path / ".mlcycle", fake_clock)
        put(store, note())

        found = {
            str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode)
            for folder in (tmp_path / ".mlcycle", keys_of_their_own)
            for path in (folder, *folder.rglob("*"))
            if path.is_relative_to(tmp_path)
        }
        found |= {path.name: stat.S_IMODE(path.stat().st_mode) for path in keys_of_their_own.iterdir()}
        store.close()

        assert found.pop(".mlcycle") == 0o700
        assert {".mlcycle/workspace.db", f"{store.workspace_id}.pem", f"{store.workspace_id}.anchor.json"} <= set(found)
        assert {name for name, mode in found.items() if mode != 0o600} == set()
