"""Model versions and aliases: in MLflow, in the workspace, and in the audit trail."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.development.records import RegisteredVersion
from mlcycle_nb.development.service import ModelDevelopmentManager
from mlcycle_nb.development.tracking import ROW_ATTEMPTS
from mlcycle_nb.errors import Conflict, IntegrityError, InvalidInput, InvalidName, NotFound
from mlcycle_nb.store.audit import events, verify
from mlcycle_nb.testing import FakeClock


def mlflow_client(development: ModelDevelopmentManager) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=development.tracking.uri, registry_uri=development.tracking.uri)


@contextmanager
def somebody_is_faster(database: Path, statement: str, row: str, times: int = 1) -> Iterator[list[str]]:
    """Write `row` through a connection of its own just before MLflow sends `statement`."""
    from sqlalchemy import Engine, event

    seen: list[str] = []

    def first(_connection: Any, _cursor: Any, sent: str, *_others: Any) -> None:
        if sent.startswith(statement) and len(seen) < times:
            seen.append(sent)
            with closing(sqlite3.connect(database)) as other, other:
                other.execute(row)

    event.listen(Engine, "before_cursor_execute", first)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", first)


class TestRegister:
    def test_mlflow_and_the_workspace_agree(self, development: ModelDevelopmentManager, package: Any) -> None:
        with development.start_run() as run:
            pass
        version = development.register_model("digits", package, run_id=run.id, tags={"team": "vision"})
        theirs = mlflow_client(development).get_model_version("digits", "1")

        assert version.reference == "digits/1"
        assert version.package_digest == package.digest == theirs.tags["mlcycle.package"]
        assert version.run_id == run.id == theirs.run_id
        assert version.tags["team"] == "vision" == theirs.tags["team"]
        assert development.get_version("digits/1") == version
        assert development.models() == ["digits"]

    def test_each_registration_is_a_new_version(self, development: ModelDevelopmentManager, package: Any) -> None:
        numbers = [development.register_model("digits", package).version for _ in range(3)]

        assert numbers == [1, 2, 3]
        assert [v.version for v in development.versions("digits")] == [3, 2, 1]

    def test_the_same_run_and_package_give_the_same_version(
        self, development: ModelDevelopmentManager, package: Any
    ) -> None:
        with development.start_run() as run:
            pass
        first = development.register_model("digits", package, run_id=run.id)

        assert development.register_model("digits", package, run_id=run.id) == first

    def test_a_version_known_only_to_mlflow_is_adopted(
        self, development: ModelDevelopmentManager, package: Any
    ) -> None:
        """As after a kill between registering and recording it."""
        client = mlflow_client(development)
        client.create_registered_model("digits")
        client.create_model_version("digits", "file:///x", tags={"mlcycle.package": package.digest})
        version = development.register_model("digits", package)

        assert version.version == 2
        assert development.get_version("digits/1").package_digest == package.digest
        assert [b["event"] for b in events(development.context.store, subject="model:digits/1")] == ["model.adopted"]

    def test_a_foreign_version_is_left_alone(self, development: ModelDevelopmentManager, package: Any) -> None:
        client = mlflow_client(development)
        client.create_registered_model("digits")
        client.create_model_version("digits", "file:///x")

        assert development.register_model("digits", package).version == 2
        assert [v.version for v in development.versions("digits")] == [2]

    def test_changed_bytes_are_not_registered(self, development: ModelDevelopmentManager, package: Any) -> None:
        file = next(f for f in package.path.iterdir() if f.suffix == ".onnx")
        file.chmod(0o600)
        file.write_bytes(file.read_bytes()[:-1] + b"\x00")
        with pytest.raises(IntegrityError):
            development.register_model("digits", package)
        assert development.models() == []

    @pytest.mark.parametrize("name", ["", "Digits", "a/b", "../x", "a:b", "latest", "x" * 64, "dïgits"])
    def test_names_follow_the_grammar(self, development: ModelDevelopmentManager, package: Any, name: str) -> None:
        with pytest.raises(InvalidName):
            development.register_model(name, package)

    @pytest.mark.parametrize("tags", [{"mlcycle.package": "x"}, {"note": 7}, {"note": "x" * 5001}])
    def test_bad_tags_are_refused(self, development: ModelDevelopmentManager, package: Any, tags: Any) -> None:
        with pytest.raises(InvalidInput, match="cannot be set"):
            development.register_model("digits", package, tags=tags)

    def test_a_tag_is_set_here_and_there(self, development: ModelDevelopmentManager, package: Any) -> None:
        development.register_model("digits", package)
        assert development.tag_version("digits/1", "mlcycle.retired", "yes").tags["mlcycle.retired"] == "yes"
        assert mlflow_client(development).get_model_version("digits", "1").tags["mlcycle.retired"] == "yes"
        with pytest.raises(InvalidInput):
            development.tag_version("digits/1", "mlcycle.package", "another")

    def test_another_sets_the_same_tag_at_that_moment(self, development: ModelDevelopmentManager, package: Any) -> None:
        development.register_model("digits", package)
        database = development.context.home / "mlflow.db"
        theirs = "INSERT INTO model_version_tags (name, version, key, value) VALUES ('digits', 1, 'team', 'theirs')"
        with somebody_is_faster(database, "INSERT INTO model_version_tags", theirs) as seen:
            development.tag_version("digits/1", "team", "vision")

        assert len(seen) == 1
        assert mlflow_client(development).get_model_version("digits", "1").tags["team"] == "vision"


class TestAliases:
    def test_an_alias_moves(self, development: ModelDevelopmentManager, package: Any) -> None:
        for _ in range(2):
            development.register_model("digits", package)
        development.set_alias("digits", "champion", 1)
        moved = development.set_alias("digits", "champion", 2, reason="better")

        assert moved.aliases == ("champion",)
        assert development.get_version("digits@champion").version == 2
        assert development.get_version("digits/1").aliases == ()
        assert mlflow_client(development).get_model_version_by_alias("digits", "champion").version in {2, "2"}
        last = events(development.context.store, subject="model:digits/2")[-1]
        assert (last["event"], last["detail"]["from"], last["reason"]) == ("model.alias_set", 1, "better")

    def test_setting_it_again_changes_nothing(self, development: ModelDevelopmentManager, package: Any) -> None:
        development.register_model("digits", package)
        development.set_alias("digits", "champion", 1)
        count = len(events(development.context.store))
        development.set_alias("digits", "champion", 1)

        assert len(events(development.context.store)) == count

    def test_a_removed_alias_is_gone(self, development: ModelDevelopmentManager, package: Any) -> None:
        development.register_model("digits", package)
        development.set_alias("digits", "champion", 1)
        development.remove_alias("digits", "champion")
        development.remove_alias("digits", "champion")

        assert development.aliases("digits") == {}
        assert mlflow_client(development).get_registered_model("digits").aliases == {}

    def test_an_alias_moved_elsewhere_is_taken_over(self, development: ModelDevelopmentManager, package: Any) -> None:
        for _ in range(2):
            development.register_model("digits", package)
        development.set_alias("digits", "champion", 1)
        mlflow_client(development).set_registered_model_alias("digits", "champion", "2")
        development.register_model("digits", package)

        assert development.aliases("digits") == {"champion": 2}
        assert verify(development.context.store).intact

    def test_another_makes_the_same_alias_at_that_moment(
        self, development: ModelDevelopmentManager, package: Any
    ) -> None:
        """MLflow finds none, and by the time that it inserts one there is one: it is changed instead."""
        for _ in range(2):
            development.register_model("digits", package)
        database = development.context.home / "mlflow.db"
        theirs = "INSERT INTO registered_model_aliases (name, alias, version) VALUES ('digits', 'champion', 1)"
        with somebody_is_faster(database, "INSERT INTO registered_model_aliases", theirs) as seen:
            development.set_alias("digits", "champion", 2)

        assert len(seen) == 1
        assert development.aliases("digits") == development.tracking.aliases("digits") == {"champion": 2}

    def test_another_who_is_always_faster_is_told_of(self, development: ModelDevelopmentManager, package: Any) -> None:
        """It ends: the row is made and removed again at each attempt."""
        development.register_model("digits", package)
        database = development.context.home / "mlflow.db"
        theirs = "INSERT INTO registered_model_aliases (name, alias, version) VALUES ('digits', 'champion', 1)"
        removed = "DELETE FROM registered_model_aliases"
        with (
            somebody_is_faster(database, "SELECT", removed, times=1000),
            somebody_is_faster(database, "INSERT INTO registered_model_aliases", theirs, times=ROW_ATTEMPTS) as seen,
            pytest.raises(Conflict, match="somebody else wrote the same at this moment"),
        ):
            development.set_alias("digits", "champion", 1)

        assert len(seen) == ROW_ATTEMPTS
        assert development.aliases("digits") == {}

    def test_an_alias_needs_an_existing_version(self, development: ModelDevelopmentManager, package: Any) -> None:
        development.register_model("digits", package)
        with pytest.raises(NotFound, match="no version 7"):
            development.set_alias("digits", "champion", 7)

    @pytest.mark.parametrize("alias", ["v7", "7", "latest", "", "Champion", "a b"])
    def test_aliases_follow_the_grammar(self, development: ModelDevelopmentManager, package: Any, alias: str) -> None:
        development.register_model("digits", package)
        with pytest.raises(InvalidName):
            development.set_alias("digits", alias, 1)


class TestFinding:
    def test_absent_things_are_named_with_what_there_is(
        self, development: ModelDevelopmentManager, package: Any
    ) -> None:
        development.register_model("digits", package)
        development.set_alias("digits", "champion", 1)
        with pytest.raises(NotFound, match="did you mean 'digits'"):
            development.get_version("digit/1")
        with pytest.raises(NotFound, match=r"did you mean 'champion'.*@champion=1"):
            development.get_version("digits@champ")
        with pytest.raises(NotFound, match="known: 1"):
            development.get_version("digits/9")

    def test_a_bare_name_means_the_only_version(self, development: ModelDevelopmentManager, package: Any) -> None:
        development.register_model("digits", package)
        assert development.get_version("digits").version == 1
        development.register_model("digits", package)
        with pytest.raises(InvalidInput, match="has 2 versions"):
            development.get_version("digits")

    def test_an_empty_workspace_says_so(self, development: ModelDevelopmentManager) -> None:
        with pytest.raises(NotFound, match="none yet"):
            development.get_version("digits/1")

    def test_reading_needs_no_mlflow(self, development: ModelDevelopmentManager, package: Any) -> None:
        """The workspace answers by itself: another service object never connects."""
        development.register_model("digits", package)
        other = ModelDevelopmentManager(development.context)
        other.get_version("digits/1")
        other.versions("digits")
        other.models()

        assert other.tracking._connected is None


class TestHistory:
    def test_tells_what_an_alias_was(
        self, development: ModelDevelopmentManager, package: Any, fake_clock: FakeClock
    ) -> None:
        development.register_model("digits", package)
        development.set_alias("digits", "champion", 1)
        fake_clock.advance(timedelta(hours=1))
        between = fake_clock.now()
        fake_clock.advance(timedelta(hours=1))
        development.register_model("digits", package)
        development.set_alias("digits", "champion", 2, reason="better")
        fake_clock.advance(timedelta(hours=1))
        development.remove_alias("digits", "champion")

        then, now = development.history("digits", between), development.history("digits")
        assert (then.aliases, then.versions) == ({"champion": 1}, (1,))
        assert (now.aliases, now.versions) == ({}, (1, 2))
        assert "better" in repr(now)
        assert "<table" in now._repr_html_()

    def test_a_similar_name_is_another_model(self, development: ModelDevelopmentManager, package: Any) -> None:
        development.register_model("digits-two", package)

        assert development.history("digits").entries == ()

    def test_tells_what_was_deployed(self, development: ModelDevelopmentManager, fake_clock: FakeClock) -> None:
        """As deployment writes it: promoted, promoted again, ended."""
        store, times = development.context.store, []
        for event, detail in (
            ("service.promoted", {"stable": 1}),
            ("service.promoted", {"stable": 2}),
            ("service.routed", {"split": []}),
            ("service.ended", {}),
        ):
            with store.transaction(actor="supervisor") as transaction:
                transaction.note(event, subject="service:production/digits", detail=detail)
                transaction.note("service.promoted", subject="service:production/other", detail={"stable": 9})
            times.append(fake_clock.now())
            fake_clock.advance(timedelta(hours=1))
        then = [development.history("digits", at).deployments for at in times]

        assert then == [{"production": 1}, {"production": 2}, {"production": 2}, {}]
        assert "production: stable is 2" in repr(development.history("digits"))

    def test_a_time_needs_its_zone(self, development: ModelDevelopmentManager, fake_clock: FakeClock) -> None:
        with pytest.raises(InvalidInput, match="no time zone"):
            development.history("digits", fake_clock.now().replace(tzinfo=None))


def test_records_survive_the_store(development: ModelDevelopmentManager, package: Any) -> None:
    version = development.register_model("digits", package)
    stored = development.context.store.get(RegisteredVersion, "digits/1")

    assert (stored.model, stored.number, stored.package_digest) == ("digits", 1, version.package_digest)
    assert verify(development.context.store).intact
