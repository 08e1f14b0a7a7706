"""Opening the database: engine, file modes, one-time migration under a lock, refusal of what is newer or half done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from mlcycle_nb.errors import InvalidSettings, MissingDependency, StoreError
from mlcycle_nb.files import private_folder
from mlcycle_nb.store import schema

_MIGRATIONS = Path(__file__).with_name("migrations")
_NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smbfs", "smb3", "fuse.sshfs", "9p", "afs"}
_BUSY_SECONDS = 30
SCHEMA_HEAD = "0001"
"""The newest migration; a test holds it against the migrations folder."""
# One key for all writers of one database: PostgreSQL then appends to the audit chain one transaction at a time,
# as SQLite does by BEGIN IMMEDIATE.
POSTGRES_WRITER_LOCK = 0x6D6C6379
POSTGRES_LEADER_LOCK = 0x6D6C6C64


def open_engine(url: str, home: Path) -> Engine:
    """Return an engine for `url`, or for SQLite in `home` when `url` is empty, migrated to this release.

    Raises
    ------
    StoreError
        When the database was made by a newer release, or a migration of it was cut short.
    """
    with _foreign_errors():
        engine = _sqlite(home / "workspace.db") if not url else _from_url(url)
        try:
            with FileLock(home / "migrate.lock", mode=0o600):
                _migrate(engine)
        except BaseException:
            engine.dispose()
            raise
    return engine


@contextmanager
def _foreign_errors() -> Iterator[None]:
    try:
        yield
    except (DBAPIError, OSError) as failure:
        raise StoreError(
            f"the workspace database cannot be used: {first_line(failure)}",
            remedy="check the disk, the permissions and MLCYCLE_DATABASE_URL",
        ) from failure


def first_line(failure: DBAPIError | OSError) -> str:
    """Return the first line of what the driver or the system said."""
    said = str(failure.orig if isinstance(failure, DBAPIError) else failure.strerror or failure)
    return next(iter(said.splitlines()), type(failure).__name__)


def _sqlite(path: Path) -> Engine:
    private_folder(path.parent)
    file_system = _file_system(path.parent)
    if file_system in _NETWORK_FILE_SYSTEMS:
        raise StoreError(
            f"the workspace is on {file_system}, where SQLite's locks cannot be trusted",
            where=str(path.parent),
            remedy="set MLCYCLE_HOME to a local folder or MLCYCLE_DATABASE_URL to a PostgreSQL database",
        )
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # pysqlite must not begin by itself: the kind of BEGIN is chosen below
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # an acknowledged action survives power loss
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("mlcycle_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _from_url(text_url: str) -> Engine:
    try:
        url = make_url(text_url)
    except ArgumentError:
        raise InvalidSettings(
            "database_url is not a database URL",
            where="MLCYCLE_DATABASE_URL",
            remedy="write postgresql://user@host/database",
        ) from None
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise InvalidSettings("an in-memory database cannot be shared between processes", where="database_url")
        return _sqlite(Path(url.database).absolute())
    if url.get_backend_name() != "postgresql":
        raise InvalidSettings(
            f"unsupported database {url.get_backend_name()}", where="database_url", remedy="use SQLite or PostgreSQL"
        )
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    try:
        engine = create_engine(url, pool_pre_ping=True)
    except (ModuleNotFoundError, NoSuchModuleError) as missing:
        raise MissingDependency("PostgreSQL needs psycopg", remedy="pip install 'mlcycle-nb[postgres]'") from missing

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("mlcycle_writes", False):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({POSTGRES_WRITER_LOCK})")

    return engine


def _migrate(engine: Engine) -> None:
    head = SCHEMA_HEAD
    with engine.connect() as connection, connection.begin():
        if _revision(connection) == head:
            return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    with engine.connect().execution_options(mlcycle_writes=True) as connection, connection.begin():
        current = _revision(connection)
        if current is not None and current not in known:
            raise StoreError(
                f"the workspace database has schema {current}, this release knows up to {head}",
                remedy="upgrade mlcycle-nb, or open another workspace",
            )
        if current is None and set(inspect(connection).get_table_names()) & set(schema.metadata.tables):
            raise StoreError(
                f"the workspace database is half migrated: it has tables but no schema version (this release: {head})",
                remedy="restore it from a copy, or remove it when it holds nothing",
            )
        config.attributes["connection"] = connection
        try:
            # Both databases run DDL in the transaction that `connection.begin()` opened: all of it, or nothing.
            command.upgrade(config, "head")
        except SQLAlchemyError as failure:
            raise StoreError(f"migration from {current} to {head} failed and was undone: {failure}") from failure


def _revision(connection: Connection) -> str | None:
    """Return the schema version that Alembic recorded; read by hand, for importing Alembic takes long."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revisions = sorted(connection.execute(text("SELECT version_num FROM alembic_version")).scalars())
    if len(revisions) > 1:
        raise StoreError(
            f"the workspace database is half migrated: it has the schema versions {' and '.join(revisions)}"
            f" (this release: {SCHEMA_HEAD})",
            remedy="restore it from a copy",
        )
    return str(revisions[0]) if revisions else None


def _file_system(folder: Path) -> str:
    """Return the file-system type that holds `folder`, or an empty text where the system does not say."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    best = ("", "")
    resolved = str(folder.resolve())
    for line in lines:
        left, _, right = line.partition(" - ")
        mount = left.split()[4].replace("\\040", " ")
        inside = resolved == mount or resolved.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best[0]):
            best = (mount, right.split()[0])
    return best[1]
