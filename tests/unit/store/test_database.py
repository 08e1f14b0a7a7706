"""Opening a database: made once, migrated whole or not at all, refused when it is not ours to open."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect

from mlcycle_nb.errors import InvalidSettings, StoreError
from mlcycle_nb.store import Store, database, schema
from mlcycle_nb.store.database import SCHEMA_HEAD, open_engine
from mlcycle_nb.testing import FakeClock

SECOND = """
from alembic import op
import sqlalchemy as sa

revision = "0002"
down_revision = "0001"


def upgrade():
    op.create_table("more", sa.Column("x", sa.Integer))
    op.execute("INSERT INTO no_such_table VALUES (1)")
"""


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_url(request: pytest.FixtureRequest) -> str:
    """A database without tables."""
    return "" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


def run(engine: Engine, *statements: str) -> None:
    with engine.connect().execution_options(mlcycle_writes=True) as connection, connection.begin():
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


class TestMigrations:
    """The migrations lead to the schema that the code expects, and nowhere else."""

    def test_the_head_is_the_newest_migration(self) -> None:
        """`SCHEMA_HEAD` saves importing Alembic at each start, so it must be kept by hand."""
        assert ScriptDirectory(str(database._MIGRATIONS)).get_current_head() == SCHEMA_HEAD

    def test_migrations_lead_to_the_tables_of_the_code(self, empty_url: str, tmp_path: Path) -> None:
        """Alembic finds no difference between a migrated database and `schema.metadata`."""
        engine = open_engine(empty_url, tmp_path)
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            differences = compare_metadata(context, schema.metadata)
        engine.dispose()

        assert differences == []

    def test_a_second_opening_changes_nothing(self, empty_url: str, tmp_path: Path, fake_clock: FakeClock) -> None:
        """The workspace keeps its name."""
        first, second = (Store(tmp_path, fake_clock, empty_url) for _ in range(2))
        first.close()
        second.close()

        assert first.workspace_id == second.workspace_id

    def test_many_open_a_new_one_at_once(self, empty_url: str, tmp_path: Path, fake_clock: FakeClock) -> None:
        """Five openers of a database that is not there yet get the same workspace."""
        with ThreadPoolExecutor(5) as pool:
            stores = list(pool.map(lambda _: Store(tmp_path, fake_clock, empty_url), range(5)))
        for store in stores:
            store.close()

        assert len({store.workspace_id for store in stores}) == 1

    def test_a_failed_migration_is_undone(
        self, empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A migration that fails at its last statement leaves the tables and the version of before."""
        open_engine(empty_url, tmp_path).dispose()
        folder = tmp_path / "migrations"
        shutil.copytree(database._MIGRATIONS, folder)
        (folder / "versions" / "0002_more.py").write_text(SECOND)
        with monkeypatch.context() as release:
            release.setattr(database, "_MIGRATIONS", folder)
            release.setattr(database, "SCHEMA_HEAD", "0002")
            with pytest.raises(StoreError, match="migration from 0001 to 0002 failed and was undone"):
                open_engine(empty_url, tmp_path)

        engine = open_engine(empty_url, tmp_path)
        assert not inspect(engine).has_table("more")
        engine.dispose()


class TestRefusals:
    """A database that this release does not understand is not touched."""

    @pytest.mark.parametrize(
        ("statements", "words"),
        [
            (["UPDATE alembic_version SET version_num = '9999'"], r"has schema 9999, this release knows up to 0001"),
            (["DROP TABLE alembic_version"], r"half migrated.*no schema version \(this release: 0001\)"),
            (["DELETE FROM alembic_version"], r"half migrated.*no schema version \(this release: 0001\)"),
            (
                ["DELETE FROM alembic_version", "DROP TABLE records"],
                r"half migrated.*no schema version \(this release: 0001\)",
            ),
            (
                ["INSERT INTO alembic_version VALUES ('0002')"],
                r"half migrated.*versions 0001 and 0002 \(this release: 0001\)",
            ),
        ],
    )
    def test_newer_or_half_migrated(self, statements: list[str], words: str, empty_url: str, tmp_path: Path) -> None:
        """The refusal names what was found and what this release knows."""
        run(open_engine(empty_url, tmp_path), *statements)

        for _ in range(2):  # the refusal itself changes nothing
            with pytest.raises(StoreError, match=words):
                open_engine(empty_url, tmp_path)

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        """It is named as such, and left as it is."""
        (tmp_path / "workspace.db").write_text("to be, or not to be" * 100)

        with pytest.raises(StoreError, match="cannot be used: file is not a database"):
            open_engine("", tmp_path)
        assert (tmp_path / "workspace.db").read_text().startswith("to be")

    def test_a_folder_in_its_place(self, tmp_path: Path) -> None:
        """The driver's words in our one line."""
        (tmp_path / "workspace.db").mkdir()

        with pytest.raises(StoreError, match="cannot be used: unable to open database file"):
            open_engine("", tmp_path)

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        """A file where the folder should be."""
        (tmp_path / "file").write_text("")

        with pytest.raises(StoreError, match="cannot be used: Not a directory"):
            open_engine("", tmp_path / "file" / "home")

    def test_a_network_file_system(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """SQLite's locks do not hold there, and the way out is named."""
        monkeypatch.setattr(database, "_file_system", lambda _: "nfs4")

        with pytest.raises(StoreError, match=r"nfs4, where SQLite's locks cannot be trusted.*MLCYCLE_HOME"):
            open_engine("", tmp_path)

    def test_the_file_system_is_read_from_the_system(self) -> None:
        """The nearest mount counts."""
        assert database._file_system(Path("/proc/self")) == "proc"

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("not a url", "not a database URL"),
            ("mysql://host/db", "unsupported database mysql"),
            ("sqlite://", "in-memory database cannot be shared"),
            ("sqlite:///:memory:", "in-memory database cannot be shared"),
        ],
    )
    def test_urls_of_something_else(self, url: str, words: str, tmp_path: Path) -> None:
        """Only what can be shared between processes is opened."""
        with pytest.raises(InvalidSettings, match=words):
            open_engine(url, tmp_path)

    def test_a_sqlite_url_is_a_file(self, tmp_path: Path) -> None:
        """The file is made where the URL says, for this user only."""
        open_engine(f"sqlite:///{tmp_path}/elsewhere/ws.db", tmp_path).dispose()

        assert (tmp_path / "elsewhere" / "ws.db").stat().st_mode & 0o777 == 0o600

    @pytest.mark.postgres
    def test_a_server_that_is_not_there(self, tmp_path: Path) -> None:
        """One line, and the password is not in it."""
        pytest.importorskip("psycopg")
        with pytest.raises(StoreError, match="cannot be used") as caught:
            open_engine(f"postgresql://me:hunter2@/x?host={tmp_path}", tmp_path)

        assert "hunter2" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_full_file_system_is_one_clear_error(
    tmp_path: Path, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When even the lock file cannot be made, that is a StoreError too."""

    def full(*_: object, **__: object) -> Callable[[], None]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(database, "FileLock", full)
    with pytest.raises(StoreError, match="cannot be used: No space left on device"):
        Store(tmp_path, fake_clock)
