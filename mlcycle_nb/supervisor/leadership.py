"""Who leads: a file lock where the database is a file, an advisory lock where it is PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from mlcycle_nb.store import Store
from mlcycle_nb.store.database import POSTGRES_LEADER_LOCK

_STANDBY_SECONDS = 0.5


def wait_for_leadership(
    store: Store, holder: str, stop: threading.Event, ready: Callable[[], None]
) -> Connection | None:
    """Stand by until this process leads, then take the next fencing number.

    `ready` is called once, as soon as this process leads or stands by.

    On SQLite the caller already holds the workspace's file lock, which is leadership. On PostgreSQL the
    leader holds a session-level advisory lock on the connection that is returned; the server frees it when
    the connection ends, and another host's supervisor goes on with a higher fencing number.
    """
    if store.engine.dialect.name == "sqlite":
        store.take_lead(holder)
        ready()
        return None
    told = False
    connection = store.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    while not stop.is_set():
        taken = connection.execute(
            text("SELECT pg_try_advisory_lock(:key)"), {"key": POSTGRES_LEADER_LOCK}
        ).scalar_one()
        if taken:
            store.take_lead(holder)
        if not told:
            ready()
            told = True
        if taken:
            return connection
        stop.wait(_STANDBY_SECONDS)
    return connection


def still_leads(connection: Connection | None) -> bool:
    """Return whether the connection that holds the lead is alive."""
    if connection is None:
        return True
    try:
        connection.execute(text("SELECT 1"))
    except DBAPIError:
        return False
    return True
