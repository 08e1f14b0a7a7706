"""The store: one open workspace database."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import DBAPIError

from mlcycle_nb.clock import Clock
from mlcycle_nb.errors import Conflict, StoreError
from mlcycle_nb.store import schema
from mlcycle_nb.store.chain import Chain
from mlcycle_nb.store.database import first_line, open_engine
from mlcycle_nb.store.record import Record, canonical_json, format_time, jsonable, parse_time
from mlcycle_nb.store.transaction import Transaction, read_many, read_one, required

R = TypeVar("R", bound=Record)


class Store:
    """Records, observations, measurements and the audit trail of one workspace.

    Parameters
    ----------
    home : Path
        The workspace folder.
    clock : Clock
        Source of the time in audit entries.
    database_url : str
        PostgreSQL or SQLite URL; empty for SQLite in `home`.
    """

    def __init__(self, home: Path, clock: Clock, database_url: str = "") -> None:
        self.engine = open_engine(database_url, home)
        self.clock = clock
        self.fence: int | None = None  # set in a supervisor: a leader that was replaced cannot write any more
        self.workspace_id = self._workspace_id()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    # -- transactions ----------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, actor: str) -> Iterator[Transaction]:
        """Open a writing transaction; it commits when the block ends, and is undone when the block raises."""
        chain = Chain(self.workspace_id, self.clock)
        with self._writing() as connection:
            if self.fence is not None:
                self._refuse_stale_leader(connection)
            yield Transaction(connection, chain, actor)
        chain.advance_anchor()

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        options = {"mlcycle_writes": True}
        with _translated(), self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with _translated(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Open a reading transaction whose statements all see the same moment."""
        options: dict[str, Any] = {}
        if self.engine.dialect.name != "sqlite":  # SQLite's readers see one moment anyway
            options["isolation_level"] = "REPEATABLE READ"
        with _translated(), self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    # -- records ---------------------------------------------------------------------------------------------

    def get(self, record_type: type[R], id: str) -> R:
        """Return a record; NotFound names those that exist."""
        with self._reading() as connection:
            return required(connection, record_type, id)

    def maybe(self, record_type: type[R], id: str) -> R | None:
        """Return a record, or None."""
        with self._reading() as connection:
            return read_one(connection, record_type, id)

    def find(
        self,
        record_type: type[R],
        *,
        name: str | None = None,
        phase: str | Sequence[str] | None = None,
        active: bool | None = None,
        newest_first: bool = True,
        limit: int | None = None,
    ) -> list[R]:
        """Return the records of a kind that match all criteria given."""
        with self._reading() as connection:
            return read_many(
                connection,
                record_type,
                name=name,
                phase=phase,
                active=active,
                newest_first=newest_first,
                limit=limit,
            )

    def ids(self, record_type: type[Record], *, active: bool) -> list[str]:
        """Return the ids of the active, or the other, records of a kind, oldest first, without reading the records."""
        columns = schema.records.c
        query = select(columns.id).where(columns.kind == record_type.KIND, columns.active == active)
        with self._reading() as connection:
            return list(connection.execute(query.order_by(columns.created_at, columns.id)).scalars())

    # -- observations: what was seen, not what was decided; no audit event -----------------------------------

    def observe(self, record_type: type[Record], id: str, **seen: Any) -> None:
        """Merge `seen` into the observations of a record."""
        columns = schema.observations.c
        here = (columns.kind == record_type.KIND, columns.id == id)
        with self._writing() as connection:
            row = connection.execute(select(columns.document).where(*here)).one_or_none()
            tree = {} if row is None else json.loads(row.document)
            tree.update(jsonable(seen))
            document = canonical_json(tree)
            if row is None:
                connection.execute(insert(schema.observations).values(kind=record_type.KIND, id=id, document=document))
            elif document != row.document:
                connection.execute(update(schema.observations).where(*here).values(document=document))

    def observed(self, record_type: type[Record], id: str) -> dict[str, Any]:
        """Return the observations of a record; empty when there are none."""
        columns = schema.observations.c
        with self._reading() as connection:
            row = connection.execute(
                select(columns.document).where(columns.kind == record_type.KIND, columns.id == id)
            ).one_or_none()
        return {} if row is None else dict(json.loads(row.document))

    # -- measurements ----------------------------------------------------------------------------------------

    def add_measurements(self, owner: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append measurements; each row has ``time`` (aware datetime), ``kind`` (text) and any JSON-able fields."""
        if not rows:
            return
        values = [
            {
                "owner": owner,
                "kind": str(row["kind"]),
                "time": format_time(row["time"]),
                "document": canonical_json(jsonable({k: v for k, v in row.items() if k not in {"time", "kind"}})),
            }
            for row in rows
        ]
        with self._writing() as connection:
            connection.execute(insert(schema.measurements), values)

    def measurements(
        self, owner: str, *, kind: str | None = None, since: datetime | None = None, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Return measurements, oldest first; with `limit`, the newest ones."""
        columns = schema.measurements.c
        query = select(columns.kind, columns.time, columns.document).where(columns.owner == owner)
        if kind is not None:
            query = query.where(columns.kind == kind)
        if since is not None:
            query = query.where(columns.time >= format_time(since))
        query = query.order_by(columns.sequence.desc())
        if limit is not None:
            query = query.limit(limit)
        with self._reading() as connection:
            rows = connection.execute(query).all()
        return [{"kind": r.kind, "time": parse_time(r.time), **json.loads(r.document)} for r in reversed(rows)]

    def prune_measurements(self, owner: str, *, keep: int) -> int:
        """Delete all but the newest `keep` measurements of an owner; return how many went."""
        columns = schema.measurements.c
        with self._writing() as connection:
            cut = connection.execute(
                select(columns.sequence)
                .where(columns.owner == owner)
                .order_by(columns.sequence.desc())
                .offset(keep)
                .limit(1)
            ).scalar_one_or_none()
            if cut is None:
                return 0
            gone = connection.execute(
                delete(schema.measurements).where(columns.owner == owner, columns.sequence <= cut)
            )
            return int(gone.rowcount)

    # -- meta and leadership ---------------------------------------------------------------------------------

    def take_lead(self, holder: str) -> int:
        """Make `holder` the leader and return the new fencing number; the caller holds the leader's lock."""
        now = format_time(self.clock.now())
        columns = schema.lease.c
        with self._writing() as connection:
            last = connection.execute(select(columns.fence).where(columns.name == "supervisor")).scalar_one_or_none()
            fence = 1 if last is None else int(last) + 1
            row = {"holder": holder, "fence": fence, "heartbeat": now}
            if last is None:
                connection.execute(insert(schema.lease).values(name="supervisor", **row))
            else:
                connection.execute(update(schema.lease).where(columns.name == "supervisor").values(**row))
        self.fence = fence
        return fence

    def leader(self) -> tuple[str, int] | None:
        """Return the last leader and its fencing number."""
        columns = schema.lease.c
        with self._reading() as connection:
            row = connection.execute(
                select(columns.holder, columns.fence).where(columns.name == "supervisor")
            ).one_or_none()
        return None if row is None else (str(row.holder), int(row.fence))

    def counts(self) -> dict[str, int]:
        """Return how many records there are of each kind."""
        columns = schema.records.c
        with self._reading() as connection:
            rows = connection.execute(select(columns.kind, func.count()).group_by(columns.kind))
            return {str(kind): int(count) for kind, count in rows}

    def _refuse_stale_leader(self, connection: Connection) -> None:
        columns = schema.lease.c
        fence = connection.execute(select(columns.fence).where(columns.name == "supervisor")).scalar_one()
        if fence != self.fence:
            raise Conflict(f"this supervisor (fence {self.fence}) was replaced by a newer leader (fence {fence})")

    def _workspace_id(self) -> str:
        columns = schema.meta.c
        with self._writing() as connection:
            known = connection.execute(select(columns.value).where(columns.key == "workspace_id")).scalar_one_or_none()
            if known is None:
                known = uuid.uuid4().hex[:16]
                connection.execute(insert(schema.meta).values(key="workspace_id", value=known))
        return str(known)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what the database driver raises into our one-line error."""
    try:
        yield
    except DBAPIError as failure:
        raise StoreError(
            f"the workspace database failed: {first_line(failure)}",
            remedy="nothing was changed; check the disk and the database, then try again",
        ) from failure
