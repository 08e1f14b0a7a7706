"""The reconcile loop, turn by turn: one thread a record, and one record's trouble is its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from mlcycle_nb.context import Context
from mlcycle_nb.errors import Conflict, Refused, StoreError
from mlcycle_nb.store import schema
from mlcycle_nb.supervisor.loop import ReconcileLoop
from mlcycle_nb.testing import FakeClock
from mlcycle_nb.testing.records import Note

NOW = datetime(2026, 1, 1, tzinfo=UTC)
pytestmark = pytest.mark.timeout(60)


@dataclass
class Scripted:
    """A controller whose action is to call `do` with the record; a closed note asks for nothing."""

    do: Callable[[Note], None]
    wants_action: bool = True
    record_type: type[Note] = Note
    acted: list[str] = field(default_factory=list)
    times: list[datetime] = field(default_factory=list)

    def observe(self, record: Note) -> str:
        return f"seen {record.id}"

    def next_action(self, record: Note, observation: str, now: datetime) -> str | None:
        self.times.append(now)
        return "act" if self.wants_action else None

    def act(self, action: str, record: Note, observation: str) -> None:
        assert (action, observation) == ("act", f"seen {record.id}")
        self.acted.append(record.id)
        self.do(record)


@pytest.fixture
def run(context: Context) -> Iterator[Callable[[Scripted], ReconcileLoop]]:
    """Makes loops of this workspace, and ends their threads."""
    loops: list[ReconcileLoop] = []

    def make(controller: Scripted) -> ReconcileLoop:
        loops.append(ReconcileLoop(context, [controller]))
        return loops[-1]

    yield make
    for loop in loops:
        loop.close()


@pytest.fixture
def notes(context: Context) -> list[Note]:
    """Three active records and one that is not."""
    with context.store.transaction(actor="tester") as transaction:
        return [
            transaction.insert(Note(id=id, phase=phase, created_at=NOW), event="note.made")
            for id, phase in (("a", "open"), ("b", "open"), ("c", "open"), ("d", "done"))
        ]


def turn(loop: ReconcileLoop) -> int:
    active = loop.turn()
    loop.settle()
    return active


def nothing(_: Note) -> None:
    return None


def fail_on(id: str, failure: Exception) -> Callable[[Note], None]:
    def do(record: Note) -> None:
        if record.id == id:
            raise failure

    return do


def test_active_records_are_acted_on(context: Context, notes: list[Note], run: Any, fake_clock: FakeClock) -> None:
    """Each once a turn, with the time of the workspace's clock; one that is not active never."""
    controller = Scripted(nothing)
    loop = run(controller)

    assert turn(loop) == 3
    assert sorted(controller.acted) == ["a", "b", "c"]
    assert set(controller.times) == {fake_clock.now()}


def test_no_action_is_needed(notes: list[Note], run: Any) -> None:
    """All as declared: nothing is done, and the record still counts as active."""
    controller = Scripted(nothing, wants_action=False)

    assert turn(run(controller)) == 3
    assert controller.acted == []


@pytest.mark.parametrize(
    ("failure", "shown"),
    [(ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"), (Refused("no", remedy="ask"), "MLC-400: no - ask")],
)
def test_an_error_is_shown_on_its_record_and_stops_no_other(
    failure: Exception, shown: str, context: Context, notes: list[Note], run: Any
) -> None:
    """The others are acted on; the record carries the text and the count."""
    controller = Scripted(fail_on("b", failure))
    turn(run(controller))

    assert sorted(controller.acted) == ["a", "b", "c"]
    assert context.store.observed(Note, "b") == {"error": shown, "error_count": 1}
    assert context.store.observed(Note, "a") == {}


def test_an_endless_error_text_is_cut(context: Context, notes: list[Note], run: Any) -> None:
    """500 characters say enough."""
    turn(run(Scripted(fail_on("b", ValueError("x" * 10_000)))))

    assert len(context.store.observed(Note, "b")["error"]) == 500


def test_a_failing_record_is_tried_again_later_and_later(
    context: Context, notes: list[Note], run: Any, fake_clock: FakeClock
) -> None:
    """After 0.5, 1, 2, 4 ... and at most 30 seconds."""
    controller = Scripted(fail_on("b", ValueError("no")))
    loop = run(controller)
    turn(loop)
    waited = []
    for tries in range(1, 9):
        start = fake_clock.monotonic()
        while controller.acted.count("b") == tries:
            fake_clock.advance(timedelta(seconds=0.5))
            turn(loop)
        waited.append(fake_clock.monotonic() - start)

    assert waited == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert context.store.observed(Note, "b")["error_count"] == 9


def test_a_resting_record_is_left_alone(notes: list[Note], run: Any, fake_clock: FakeClock) -> None:
    """Before its time has come it is not touched; the others are."""
    controller = Scripted(fail_on("b", ValueError("no")))
    loop = run(controller)
    turn(loop)
    controller.acted.clear()
    fake_clock.advance(timedelta(seconds=0.4))
    turn(loop)

    assert sorted(controller.acted) == ["a", "c"]


def test_a_success_takes_the_error_away(context: Context, notes: list[Note], run: Any, fake_clock: FakeClock) -> None:
    """And the next failure begins to count at one again."""
    controller = Scripted(fail_on("b", ValueError("no")))
    loop = run(controller)
    turn(loop)
    controller.do = nothing
    fake_clock.advance(timedelta(seconds=1))
    turn(loop)
    assert context.store.observed(Note, "b") == {"error": "", "error_count": 0}

    controller.do = fail_on("b", ValueError("again"))
    turn(loop)
    assert context.store.observed(Note, "b")["error_count"] == 1

    controller.do = nothing
    fake_clock.advance(timedelta(seconds=1))
    turn(loop)
    assert context.store.observed(Note, "b") == {"error": "", "error_count": 0}


def test_a_success_takes_away_what_an_earlier_supervisor_left(context: Context, notes: list[Note], run: Any) -> None:
    """The error of before a kill is not shown for ever."""
    context.store.observe(Note, "b", error="of long ago", error_count=3)
    turn(run(Scripted(nothing)))

    assert context.store.observed(Note, "b")["error"] == ""


def test_a_conflict_is_no_error(context: Context, notes: list[Note], run: Any) -> None:
    """Somebody else was first: nothing is shown, and the next turn reads again without waiting."""

    def lose(record: Note) -> None:
        if record.id == "b":
            with context.store.transaction(actor="loser") as transaction:
                transaction.update(replace(record, version=record.version + 1), event="note.changed")

    controller = Scripted(lose)
    loop = run(controller)
    turn(loop)
    turn(loop)

    assert controller.acted.count("b") == 2
    assert context.store.observed(Note, "b") == {}


def test_never_two_threads_on_one_record(notes: list[Note], run: Any) -> None:
    """While a record is being worked on, turns pass it by, and go on with the others."""
    inside, leave = threading.Event(), threading.Event()

    def hold(record: Note) -> None:
        if record.id == "b":
            inside.set()
            assert leave.wait(30)

    controller = Scripted(hold)
    loop = run(controller)
    loop.turn()
    assert inside.wait(30)
    for _ in range(5):
        assert loop.turn() == 3
    during = controller.acted.count("b")
    leave.set()
    loop.settle()
    turn(loop)

    assert (during, controller.acted.count("b")) == (1, 2)


def test_a_record_that_cannot_be_read_stops_no_other(context: Context, notes: list[Note], run: Any) -> None:
    """One written by another release: it is shown on the record, and its kind is worked on."""
    with context.store._writing() as connection:
        connection.execute(update(schema.records).where(schema.records.c.id == "b").values(document="{}"))
    controller = Scripted(nothing)
    loop = run(controller)
    turn(loop)
    turn(loop)

    assert sorted(controller.acted) == ["a", "a", "c", "c"]
    seen = context.store.observed(Note, "b")
    assert "a stored note cannot be read" in seen["error"]
    assert seen["error_count"] == 1  # it rests between tries, as any failing record


def test_a_database_that_fails_is_tried_again(
    notes: list[Note], run: Any, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn without a database finds nothing and goes on."""
    controller = Scripted(nothing)
    loop = run(controller)

    def broken(*_: object, **__: object) -> None:
        raise StoreError("the workspace database failed")

    with monkeypatch.context() as outage:
        outage.setattr(type(context.store), "_reading", broken)
        assert turn(loop) == 0
    assert turn(loop) == 3


class TestRun:
    """The loop as the supervisor runs it."""

    def test_it_leaves_when_nothing_is_active(self, context: Context, run: Any) -> None:
        """After the idle time, by itself."""
        settings = replace(context.settings.supervisor, idle_exit_seconds=0.01, tick_seconds=0.01)
        object.__setattr__(context, "settings", replace(context.settings, supervisor=settings))
        run(Scripted(nothing)).run(threading.Event())

    def test_it_stops_within_a_slow_tick(self, context: Context, notes: list[Note], run: Any) -> None:
        """A tick of a minute does not hold up the end."""
        settings = replace(context.settings.supervisor, tick_seconds=60.0)
        object.__setattr__(context, "settings", replace(context.settings, supervisor=settings))
        stop, controller = threading.Event(), Scripted(nothing, wants_action=False)
        thread = threading.Thread(target=run(controller).run, args=(stop,))
        thread.start()
        while not controller.times:
            time.sleep(0.01)
        stop.set()
        thread.join(timeout=30)

        assert not thread.is_alive()

    def test_an_action_makes_the_next_turn_come_at_once(self, context: Context, notes: list[Note], run: Any) -> None:
        """A tick of a minute does not hold up the next step of a record that has just moved."""
        settings = replace(context.settings.supervisor, tick_seconds=60.0)
        object.__setattr__(context, "settings", replace(context.settings, supervisor=settings))
        stop, controller = threading.Event(), Scripted(nothing)

        def twice(record: Note) -> None:
            if controller.acted.count("b") == 2:
                stop.set()

        controller.do = twice
        thread = threading.Thread(target=run(controller).run, args=(stop,))
        thread.start()
        thread.join(timeout=30)

        assert not thread.is_alive()

    def test_a_removed_workspace_is_left(self, context: Context, run: Any) -> None:
        """Nothing is made again in a folder that somebody deleted."""
        object.__setattr__(context, "home", context.home / "gone")
        run(Scripted(nothing)).run(threading.Event())


def test_conflicts_are_raised_by_the_store(context: Context, notes: list[Note]) -> None:
    """The controller above relies on it."""
    with pytest.raises(Conflict), context.store.transaction(actor="x") as transaction:
        transaction.update(replace(notes[0], version=9), event="x")
