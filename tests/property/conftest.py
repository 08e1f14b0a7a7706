"""A trail to tamper with: made once a test, put back before each example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, insert, select

from mlcycle_nb.store import Store, schema
from mlcycle_nb.store.keys import AnchorFile
from mlcycle_nb.testing import FakeClock
from mlcycle_nb.testing.records import Note

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Image:
    """All rows of the trail and of the records."""

    audit: list[dict[str, Any]]
    records: list[dict[str, Any]]

    @classmethod
    def of(cls, store: Store) -> Image:
        with store.snapshot() as connection:
            return cls(
                [
                    dict(r)
                    for r in connection.execute(select(schema.audit).order_by(schema.audit.c.sequence)).mappings()
                ],
                [dict(r) for r in connection.execute(select(schema.records)).mappings()],
            )

    def put(self, store: Store) -> None:
        with store._writing() as connection:
            for table, rows in ((schema.audit, self.audit), (schema.records, self.records)):
                connection.execute(delete(table))
                if rows:
                    connection.execute(insert(table), rows)


@dataclass
class Trail:
    """A store whose trail has entries of every sort, and its image after each of them."""

    store: Store
    images: list[Image]  # images[n]: after n entries

    @property
    def whole(self) -> Image:
        return self.images[-1]

    def forget_anchor(self) -> None:
        """Be a user who has never written to this workspace."""
        AnchorFile(self.store.workspace_id).path.unlink()


@pytest.fixture
def make_trail(fake_clock: FakeClock) -> Callable[[Store], Trail]:
    """Writes ten entries about three records and something else; each has a float, and letters outside ASCII."""

    def make(store: Store) -> Trail:
        trail = Trail(store, [Image.of(store)])
        detail = {"wert": 0.5, "gruß": "für"}

        def after_each(change: Callable[[Any], Any]) -> Any:
            fake_clock.advance(timedelta(seconds=1))
            with store.transaction(actor="müller") as transaction:
                result = change(transaction)
            trail.images.append(Image.of(store))
            return result

        def new(id: str) -> Note:
            record = Note(id=id, phase="open", created_at=NOW, topic=f"t-{id}", holds=f"k-{id}", text="a")
            made: Note = after_each(lambda t: t.insert(record, event="note.made", detail=detail))
            return made

        def change(record: Note, **fields: Any) -> Note:
            made: Note = after_each(
                lambda t: t.update(replace(record, **fields), event="note.changed", detail=detail, reason="weil")
            )
            return made

        first, second = new("a"), new("b")
        first = change(first, text="b")
        after_each(lambda t: t.note("alias.moved", subject="model:digits", detail=detail))
        third = new("c")
        second = change(second, number=1.5)
        after_each(lambda t: t.delete(third, event="note.gone", detail=detail))
        change(second, phase="done", holds=None)
        after_each(lambda t: t.note("alias.moved", subject="model:digits", detail=detail, reason="ß"))
        change(first, text="c")
        return trail

    return make


@pytest.fixture
def trail(any_store: Store, make_trail: Callable[[Store], Trail]) -> Trail:
    """The trail on each kind of database."""
    return make_trail(any_store)
