"""One change: records and their audit events, together or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError as UniqueViolation

from mlcycle_nb.errors import Conflict, NotFound, StoreError
from mlcycle_nb.store import schema
from mlcycle_nb.store.deletion import Deletion
from mlcycle_nb.store.record import STATE_COLUMNS, Record, decode, encode, format_time, jsonable, state_digest

if TYPE_CHECKING:
    from mlcycle_nb.store.chain import Chain

R = TypeVar("R", bound=Record)


class Transaction:
    """Reads and writes inside one database transaction; made by `Store.transaction`."""

    def __init__(self, connection: Connection, chain: Chain, actor: str) -> None:
        self._connection = connection
        self._chain = chain
        self.actor = actor

    # -- reads ---------------------------------------------------------------------------------------------

    def maybe(self, record_type: type[R], id: str) -> R | None:
        """Return the record, or None."""
        return read_one(self._connection, record_type, id)

    def get(self, record_type: type[R], id: str) -> R:
        """Return the record; NotFound names those that exist."""
        return required(self._connection, record_type, id)

    def find(self, record_type: type[R], **criteria: Any) -> list[R]:
        """Return matching records; see `Store.find`."""
        return read_many(self._connection, record_type, **criteria)

    # -- writes --------------------------------------------------------------------------------------------

    def insert(self, record: R, *, event: str, detail: Mapping[str, Any] | None = None, reason: str = "") -> R:
        """Store a new record.

        Raises
        ------
        Conflict
            When the id, or the record's lock key, is taken; the message names the holder. Also when it refers to
            something that was deleted meanwhile.
        """
        document = encode(record)
        self._refuse_taken_lock(record)
        self._refuse_deleted(record)
        try:
            with self._connection.begin_nested():
                row = _row(record, document, version=1)
                self._connection.execute(insert(schema.records).values(**row))
        except UniqueViolation as taken:
            raise Conflict(f"{record.KIND} {record.id} exists already") from taken
        self._audit(record, event, detail, reason, before=None, after=state_digest(row))
        return decode(type(record), document, 1)

    def update(self, record: R, *, event: str, detail: Mapping[str, Any] | None = None, reason: str = "") -> R:
        """Store the next state of a record that was read at `record.version`.

        Raises
        ------
        Conflict
            When somebody else stored another state since, or the lock key is taken, or it refers to something that
            was deleted meanwhile.
        """
        before = self._state(record)
        document = encode(record)
        self._refuse_taken_lock(record)
        self._refuse_deleted(record)
        row = _row(record, document, version=record.version + 1)
        changed = self._connection.execute(
            update(schema.records).where(*_is(record), schema.records.c.version == record.version).values(**row)
        )
        if changed.rowcount != 1:
            raise Conflict(f"{record.KIND} {record.id} was changed by somebody else meanwhile", remedy="read it again")
        self._audit(record, event, detail, reason, before=before, after=state_digest(row))
        return decode(type(record), document, record.version + 1)

    def delete(self, record: Record, *, event: str, detail: Mapping[str, Any] | None = None, reason: str = "") -> None:
        """Remove a record; its audit entries stay."""
        before = self._state(record)
        changed = self._connection.execute(
            delete(schema.records).where(*_is(record), schema.records.c.version == record.version)
        )
        if changed.rowcount != 1:
            raise Conflict(f"{record.KIND} {record.id} was changed by somebody else meanwhile", remedy="read it again")
        observations = schema.observations.c
        self._connection.execute(
            delete(schema.observations).where(observations.kind == record.KIND, observations.id == record.id)
        )
        self._audit(record, event, detail, reason, before=before, after=None)

    def note(self, event: str, *, subject: str, detail: Mapping[str, Any] | None = None, reason: str = "") -> None:
        """Append an audit event about something that is not a record here, such as an MLflow alias."""
        self._chain.append(
            self._connection, self.actor, event, subject, jsonable(dict(detail or {})), reason, before=None, after=None
        )

    # -- parts ---------------------------------------------------------------------------------------------

    def _state(self, record: Record) -> str:
        columns = [schema.records.c[name] for name in STATE_COLUMNS]
        row = self._connection.execute(select(*columns).where(*_is(record))).mappings().one_or_none()
        if row is None:
            raise NotFound(f"there is no {record.KIND} {record.id}")
        return state_digest(dict(row))

    def _refuse_taken_lock(self, record: Record) -> None:
        if record.lock_key is None:
            return
        columns = schema.records.c
        holder = self._connection.execute(
            select(columns.id, columns.phase).where(
                columns.kind == record.KIND, columns.lock_key == record.lock_key, columns.id != record.id
            )
        ).one_or_none()
        if holder is not None:
            raise Conflict(
                f"{record.KIND} {holder.id} ({holder.phase}) holds {record.lock_key}",
                remedy="wait for it, end it, or supersede it",
            )

    def _refuse_deleted(self, record: Record) -> None:
        # The other half of a deletion's own look for referrers: writers follow one another, so one of both sees it.
        for subject in record.refers_to:
            gone = read_one(self._connection, Deletion, subject)
            if gone is not None:
                raise Conflict(f"{gone.about} {gone.told()}", remedy="name another one")

    def _audit(
        self,
        record: Record,
        event: str,
        detail: Mapping[str, Any] | None,
        reason: str,
        *,
        before: str | None,
        after: str | None,
    ) -> None:
        body = {"phase": record.phase, **dict(detail or {})}
        self._chain.append(
            self._connection,
            self.actor,
            event,
            f"{record.KIND}:{record.id}",
            jsonable(body),
            reason,
            before=before,
            after=after,
        )


def _is(record: Record) -> tuple[Any, Any]:
    return schema.records.c.kind == record.KIND, schema.records.c.id == record.id


def _row(record: Record, document: str, *, version: int) -> dict[str, Any]:
    if len(record.id) > 200:
        raise StoreError("a record id has over 200 characters", value=record.id)
    return {
        "kind": record.KIND,
        "id": record.id,
        "name": record.name,
        "phase": record.phase,
        "active": record.active,
        "lock_key": record.lock_key,
        "version": version,
        "document": document,
        "created_at": format_time(record.created_at),
    }


def read_one(connection: Connection, record_type: type[R], id: str) -> R | None:
    """Return one record or None."""
    columns = schema.records.c
    row = connection.execute(
        select(columns.document, columns.version).where(columns.kind == record_type.KIND, columns.id == id)
    ).one_or_none()
    return None if row is None else decode(record_type, row.document, row.version)


def required(connection: Connection, record_type: type[R], id: str) -> R:
    """Return one record; NotFound lists up to ten that exist."""
    record = read_one(connection, record_type, id)
    if record is None:
        columns = schema.records.c
        known = connection.execute(
            select(columns.id).where(columns.kind == record_type.KIND).order_by(columns.created_at.desc()).limit(10)
        ).scalars()
        listed = ", ".join(known) or "none yet"
        raise NotFound(f"there is no {record_type.KIND} of this id", value=id, remedy=f"known: {listed}")
    return record


def read_many(
    connection: Connection,
    record_type: type[R],
    *,
    name: str | None = None,
    phase: str | Iterable[str] | None = None,
    active: bool | None = None,
    newest_first: bool = True,
    limit: int | None = None,
) -> list[R]:
    """Return records of one kind that match all criteria given."""
    columns = schema.records.c
    query = select(columns.document, columns.version).where(columns.kind == record_type.KIND)
    if name is not None:
        query = query.where(columns.name == name)
    if phase is not None:
        query = query.where(columns.phase.in_([phase] if isinstance(phase, str) else list(phase)))
    if active is not None:
        query = query.where(columns.active == active)
    order = (columns.created_at.desc(), columns.id.desc()) if newest_first else (columns.created_at, columns.id)
    query = query.order_by(*order)
    if limit is not None:
        query = query.limit(limit)
    return [decode(record_type, row.document, row.version) for row in connection.execute(query)]
