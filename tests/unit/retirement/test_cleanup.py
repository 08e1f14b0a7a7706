"""Clean-up, the ways back, and the proof that nothing is left."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from mlcycle_nb.errors import Conflict, IntegrityError, Refused
from mlcycle_nb.packages import PackageStore
from mlcycle_nb.retirement import certificate
from mlcycle_nb.retirement.records import Address
from tests.unit.retirement.conftest import ENVIRONMENT, MODEL, Retiring

PLACE = (ENVIRONMENT, MODEL, 1)


def to_tombstone(retiring: Retiring) -> str:
    id = retiring.start().id
    retiring.settle(id)
    for _ in range(4):
        retiring.pass_time(id, days=7)
    retiring.fill_notes(id)
    retiring.settle(id)
    assert retiring.record(id).phase == "clearing"
    return id


class TestCleanup:
    def test_the_plan_shows_each_thing_with_its_size(self, retiring: Retiring) -> None:
        """Processes, package, address: what goes, what stays, and why."""
        id = retiring.plan().id
        items = retiring.service.cleanup_plan(id)
        size = sum(file.stat().st_size for file in retiring.package_folder.iterdir())

        assert [(item.kind, item.disposition) for item in items] == [
            ("process", "delete"),
            ("process", "delete"),
            ("file", "delete"),
            ("route", "keep"),
            ("record", "keep"),
        ]
        assert items[2].size_bytes == size

    def test_a_package_that_another_version_uses_stays(self, retiring: Retiring) -> None:
        """Shared bytes are refused, and the retirement completes without deleting them."""
        retiring.world.digests[MODEL, 3] = retiring.packages[0].digest
        record = retiring.finish(retiring.start().id)

        assert record.phase == "completed"
        assert retiring.package_folder.is_dir()
        assert [item.why for item in record.cleanup if item.disposition == "refuse"] == ["held by digits/3"]
        assert json.loads((retiring.context.home / record.certificate).read_text())["body"].count("model.onnx") == 0

    def test_a_package_that_serves_elsewhere_stays(self, retiring: Retiring) -> None:
        """Retired in production, alive in staging."""
        retiring.world.replicas["staging", MODEL, 1] = 1
        record = retiring.finish(retiring.start().id)

        assert retiring.package_folder.is_dir()
        assert record.cleanup[0].why == "held by staging/digits/1"

    def test_a_holder_that_comes_during_the_grace_saves_the_package(self, retiring: Retiring) -> None:
        """Everything is asked again at the moment of deletion."""
        id = to_tombstone(retiring)
        assert not retiring.package_folder.exists()
        retiring.world.digests[MODEL, 3] = retiring.packages[0].digest
        retiring.pass_time(id, days=8)

        assert retiring.record(id).phase == "completed"
        PackageStore(retiring.context.folder("packages")).verify(retiring.packages[0].digest)

    def test_a_registry_that_lists_nothing_stops_everything(self, retiring: Retiring) -> None:
        """An empty listing is no proof that nobody needs it."""
        id = to_tombstone(retiring)
        retiring.world.digests.clear()
        retiring.clock.advance(timedelta(days=8))
        with pytest.raises(IntegrityError, match="nothing was deleted"):
            retiring.turn(id)

        assert retiring.record(id).deleted_at is None

    def test_the_package_waits_out_its_grace(self, retiring: Retiring) -> None:
        """Not one second less."""
        id = to_tombstone(retiring)

        assert retiring.pass_time(id, days=7, seconds=-1) == []
        assert (retiring.context.home / retiring.record(id).tombstone).is_dir()
        assert retiring.pass_time(id, seconds=1) == ["delete", "complete"]
        assert not (retiring.context.home / "tombstones").joinpath(id.replace("/", ".")).exists()

    def test_the_registry_says_that_it_is_retired(self, retiring: Retiring) -> None:
        """Whoever looks the version up learns what happened and what to use."""
        retiring.finish(retiring.start().id)

        assert retiring.world.tagged[MODEL, 1] == {
            "mlcycle.retirement": "production/digits/1/1",
            "mlcycle.retired_at": "2026-01-29",
            "mlcycle.successor": "digits/2",
        }

    def test_the_certificate_is_signed_and_an_edit_is_found(self, retiring: Retiring) -> None:
        """It names every file with its hash and the archive it rests on."""
        record = retiring.finish(retiring.start().id)
        path = retiring.context.home / record.certificate
        said = certificate.check(retiring.context, path)

        assert {file["name"] for file in said["files"]} >= {"package/model.onnx", "package/manifest.json"}
        path.write_text(path.read_text().replace("digits/1", "digits/9"))
        with pytest.raises(IntegrityError, match="not signed"):
            certificate.check(retiring.context, path)


class TestVerify:
    def test_a_finished_retirement_passes(self, retiring: Retiring) -> None:
        """Seven looks, each made again."""
        found = retiring.service.verify(retiring.finish(retiring.start().id).id)

        assert found.passed
        assert [finding.what for finding in found.findings] == [
            "phase",
            "archive",
            "address",
            "processes",
            "package",
            "aliases",
            "deletion certificate",
        ]

    @pytest.mark.parametrize(
        "damage", ["archive", "address", "processes", "package", "aliases", "deletion certificate"]
    )
    def test_each_thing_left_or_lost_is_found(self, retiring: Retiring, damage: str) -> None:
        """No look passes by default."""
        record = retiring.finish(retiring.start().id)
        assert record.archive is not None
        match damage:
            case "archive":
                (retiring.context.home / record.archive.path).unlink()
            case "address":
                retiring.world.set_address(*PLACE, Address())
            case "processes":
                retiring.world.replicas[PLACE] = 1
            case "package":
                PackageStore(retiring.context.folder("packages")).add(retiring.packages[0].path)
            case "aliases":
                retiring.world.named[MODEL]["late"] = 1
            case _:
                (retiring.context.home / record.certificate).write_text("{}")
        found = retiring.service.verify(record.id)

        assert not found.passed
        assert [finding.what for finding in found.findings if finding.outcome != "passed"] == [damage]


class TestCancel:
    @pytest.mark.parametrize("weeks", [0, 1, 2, 3, 4])
    def test_at_any_step_everything_is_as_before(self, retiring: Retiring, weeks: int) -> None:
        """Address, headers, aliases, tags, replicas: the difference is empty."""
        world = retiring.world
        world.named[MODEL]["previous"] = 1
        before = (dict(world.declared), json.dumps(world.named), dict(world.replicas))
        id = retiring.start().id
        retiring.settle(id)
        for _ in range(weeks):
            retiring.pass_time(id, days=7)
        assert world.declared
        retiring.service.cancel(id, reason="version 2 is worse on Sundays")
        retiring.settle(id)

        assert retiring.record(id).phase == "cancelled"
        assert (dict(world.declared), json.dumps(world.named), dict(world.replicas)) == before
        assert not world.tagged.get((MODEL, 1))

    def test_from_the_tombstone_the_package_comes_back(self, retiring: Retiring) -> None:
        """Replicas too."""
        id = to_tombstone(retiring)
        assert PLACE not in retiring.world.replicas
        retiring.service.cancel(id, reason="an auditor asked")
        retiring.settle(id)

        PackageStore(retiring.context.folder("packages")).verify(retiring.packages[0].digest)
        assert PLACE in retiring.world.replicas
        assert retiring.record(id).phase == "cancelled"

    def test_an_address_that_was_planned_before_comes_back_word_for_word(self, retiring: Retiring) -> None:
        """Somebody's own headers are not lost."""
        own = Address(planned=True, split=((1, 10_000),), headers={"X-Team": "digits"})
        retiring.world.set_address(*PLACE, own)
        id = retiring.start().id
        retiring.settle(id)
        retiring.pass_time(id, days=7)
        retiring.service.cancel(id, reason="not yet")
        retiring.settle(id)

        assert retiring.world.declared[PLACE] == own

    def test_it_ends_only_when_the_gateway_answers_as_before(self, retiring: Retiring) -> None:
        """Declared is not yet in force."""
        id = retiring.start().id
        retiring.settle(id)
        retiring.pass_time(id, days=7)
        retiring.world.lagging = True
        retiring.service.cancel(id, reason="not yet")

        assert retiring.settle(id) == ["undo"]
        assert retiring.record(id).phase == "cancelling"
        retiring.world.catch_up()
        assert retiring.settle(id) == ["finish_undo"]

    def test_a_version_that_was_about_to_end_gets_its_time_again(self, retiring: Retiring) -> None:
        """The retirement kept it; afterwards it ends when nobody calls, as it would have."""
        retiring.world.ending[PLACE] = 300.0
        id = retiring.start().id
        retiring.settle(id)
        retiring.world.ending.clear()
        retiring.service.cancel(id, reason="not yet")
        retiring.settle(id)

        assert retiring.world.ending == {PLACE: 300.0}

    def test_a_plan_is_cancelled_at_once(self, retiring: Retiring) -> None:
        """Nothing had changed, so nothing is undone; the version may be planned again."""
        id = retiring.plan().id

        assert retiring.service.cancel(id, reason="a slip").record.phase == "cancelled"
        assert retiring.plan().id == "production/digits/1/2"

    def test_after_deletion_it_is_refused_with_the_way_out(self, retiring: Retiring) -> None:
        """What is deleted is restored, not cancelled."""
        record = retiring.finish(retiring.start().id)
        with pytest.raises(Refused, match=r"%retire restore digits/1"):
            retiring.service.cancel(record.id, reason="oh no")


class TestRestore:
    def test_brings_the_version_back_from_its_archive(self, retiring: Retiring) -> None:
        """Package, replicas, address and tags; the package is the same to the last byte."""
        record = retiring.finish(retiring.start().id)
        assert not retiring.package_folder.exists()
        retiring.service.restore(record.id, reason="an auditor wants to see it answer")
        retiring.settle(record.id)

        assert retiring.record(record.id).phase == "restored"
        PackageStore(retiring.context.folder("packages")).verify(retiring.packages[0].digest)
        assert PLACE in retiring.world.replicas
        assert PLACE not in retiring.world.declared
        assert not retiring.world.tagged[MODEL, 1]

    def test_from_a_damaged_archive_nothing_comes(self, retiring: Retiring) -> None:
        """It says so, and stays as it was."""
        record = retiring.finish(retiring.start().id)
        assert record.archive is not None
        path = retiring.context.home / record.archive.path
        path.write_bytes(path.read_bytes()[:-1])
        retiring.service.restore(record.id, reason="try")
        with pytest.raises(IntegrityError):
            retiring.turn(record.id)

        assert not retiring.package_folder.exists()

    def test_a_restored_version_may_be_retired_again(self, retiring: Retiring) -> None:
        """With an archive of its own."""
        first = retiring.finish(retiring.start().id)
        retiring.service.restore(first.id, reason="too early")
        retiring.settle(first.id)
        second = retiring.finish(retiring.start().id)

        assert second.phase == "completed"
        assert second.archive is not None
        assert first.archive is not None
        assert second.archive.path != first.archive.path

    def test_there_is_nothing_to_restore_before(self, retiring: Retiring) -> None:
        """A ramp is cancelled."""
        id = retiring.start().id
        with pytest.raises(Refused, match="%retire cancel"):
            retiring.service.restore(id, reason="x")


def test_one_retirement_of_a_version_at_a_time(retiring: Retiring) -> None:
    """The second plan names the first."""
    retiring.start()
    with pytest.raises(Conflict, match="production/digits/1/1"):
        retiring.plan()


def test_a_folder_that_changes_while_it_is_looked_at(tmp_path: Path) -> None:
    """Prediction logs are written and merged meanwhile: what has gone counts nothing, and nothing fails."""
    import threading

    from mlcycle_nb.retirement.cleanup import folder_size

    (tmp_path / "kept").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            for number in range(40):
                (tmp_path / f".part-{number}").touch()
            for number in range(40):
                (tmp_path / f".part-{number}").unlink()

    writer = threading.Thread(target=churn)
    writer.start()
    try:
        sizes = {folder_size(tmp_path) for _ in range(300)}
    finally:
        over.set()
        writer.join()

    assert sizes == {5}
