"""The archive: the same bytes for the same content, proven before anything is deleted, and not trusted when read."""

from __future__ import annotations

import json
import random
import stat
import zipfile
from datetime import timedelta
from pathlib import Path

import pytest

from mlcycle_nb.errors import IntegrityError, NotFound, Refused
from mlcycle_nb.retirement import archive
from mlcycle_nb.retirement.archive import Member
from tests.unit.retirement.conftest import Retiring

MEMBERS = [Member.of("package/model.onnx", b"\x00" * 1000), Member.of("notes.txt", "hello"), Member.of("a.json", "{}")]


def to_handover(retiring: Retiring) -> str:
    """Run a retirement until only the notes are missing."""
    id = retiring.start().id
    retiring.settle(id)
    for _ in range(4):
        retiring.pass_time(id, days=7)
    return id


def archived(retiring: Retiring) -> tuple[str, Path]:
    """Run a retirement until its archive is written and not yet proven."""
    id = to_handover(retiring)
    retiring.fill_notes(id)
    assert [retiring.turn(id).verb for _ in range(2)] == ["begin_archive", "write_archive"]  # type: ignore[union-attr]
    record = retiring.record(id)
    assert record.archive is not None
    return id, retiring.context.home / record.archive.path


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(bytes(content))


class TestFile:
    def test_same_content_gives_the_same_bytes(self, tmp_path: Path) -> None:
        """Order of the members and time of writing leave no trace."""
        first = archive.write_archive(tmp_path / "one.zip", MEMBERS, {"version": "digits/1"})
        second = archive.write_archive(tmp_path / "two.zip", MEMBERS[::-1], {"version": "digits/1"})

        assert first == second
        assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()

    def test_holds_plain_private_files_and_a_manifest_of_hashes(self, tmp_path: Path) -> None:
        """No folder, link or compression; each member's hash can be read."""
        path = tmp_path / "one.zip"
        archive.write_archive(path, MEMBERS, {"version": "digits/1"})
        with zipfile.ZipFile(path) as found:
            infos = found.infolist()

        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert all(stat.S_ISREG(info.external_attr >> 16) for info in infos)
        assert archive.check_members(path)["members"].keys() == {m.name for m in MEMBERS}

    def test_a_member_that_changes_while_written_leaves_no_archive(self, tmp_path: Path) -> None:
        """What was announced and what came must be the same bytes."""
        lying = Member("x.txt", MEMBERS[0].sha256, 3, lambda: b"abc")
        with pytest.raises(IntegrityError, match="changed while it was archived"):
            archive.write_archive(tmp_path / "one.zip", [lying], {})

        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["../x", "/x", "a/../b", "a//b", "", "MANIFEST.json", "a\\b", "a/b/c/d/e/f"])
    def test_names_that_could_leave_the_folder_are_refused(self, tmp_path: Path, name: str) -> None:
        """Neither written nor extracted."""
        with pytest.raises(Refused, match="not a name"):
            archive.write_archive(tmp_path / "one.zip", [Member.of(name, b"x")], {})

    def test_every_single_bit_of_the_file_counts(self, tmp_path: Path) -> None:
        """One flipped bit anywhere is found: data, names, times, directory, end record."""
        path = tmp_path / "one.zip"
        written = archive.write_archive(path, MEMBERS[1:], {"version": "digits/1"})
        bits = range(written.size_bytes * 8)
        for bit in random.Random(3).sample(bits, 400):
            flip(path, bit)
            with pytest.raises(IntegrityError):
                archive.check_bytes(path, written.sha256)
            flip(path, bit)
        archive.check_bytes(path, written.sha256)

    def test_members_are_hashed_again_even_without_the_file_hash(self, tmp_path: Path) -> None:
        """A changed member with a repaired zip checksum is found by the manifest."""
        path = tmp_path / "one.zip"
        archive.write_archive(path, MEMBERS, {})
        with zipfile.ZipFile(path) as old:
            content = {info: old.read(info) for info in old.infolist()}
        with zipfile.ZipFile(path, "w") as forged:
            for info, data in content.items():
                forged.writestr(info, b"jello" if info.filename == "notes.txt" else data)
        with pytest.raises(IntegrityError, match=r"notes\.txt: recorded"):
            archive.check_members(path)

    def test_links_folders_and_compressed_members_are_refused(self, tmp_path: Path) -> None:
        """An archive of this kind has none of them."""
        for number, (mode, kind) in enumerate(
            [(stat.S_IFLNK | 0o777, zipfile.ZIP_STORED), (stat.S_IFREG | 0o600, zipfile.ZIP_DEFLATED)]
        ):
            path = tmp_path / f"{number}.zip"
            with zipfile.ZipFile(path, "w") as forged:
                info = zipfile.ZipInfo("package/x")
                info.external_attr, info.compress_type = mode << 16, kind
                forged.writestr(info, b"/etc/passwd")
            with pytest.raises(Refused, match="not a plain stored file"):
                archive.check_members(path)

    def test_more_or_fewer_members_than_recorded_are_found(self, tmp_path: Path) -> None:
        """The manifest and the archive must agree."""
        path = tmp_path / "one.zip"
        archive.write_archive(path, MEMBERS, {})
        with zipfile.ZipFile(path, "a") as forged:
            info = zipfile.ZipInfo("extra.txt")
            info.external_attr = (stat.S_IFREG | 0o600) << 16
            forged.writestr(info, b"x")
        with pytest.raises(IntegrityError, match="not in both"):
            archive.check_members(path)

    def test_a_link_in_place_of_the_archive_is_not_followed(self, tmp_path: Path) -> None:
        """Nobody may point us at another file."""
        archive.write_archive(tmp_path / "real.zip", MEMBERS, {})
        (tmp_path / "link.zip").symlink_to(tmp_path / "real.zip")
        with pytest.raises(Refused, match="cannot be opened"):
            archive.check_members(tmp_path / "link.zip")

    def test_extracts_one_folder_and_never_over_a_file(self, tmp_path: Path) -> None:
        """File by file, by the manifest."""
        archive.write_archive(tmp_path / "one.zip", MEMBERS, {})
        archive.extract(tmp_path / "one.zip", tmp_path / "out", prefix="package")

        assert [file.name for file in (tmp_path / "out").iterdir()] == ["model.onnx"]
        with pytest.raises(Refused, match="exists"):
            archive.extract(tmp_path / "one.zip", tmp_path / "out", prefix="package")
        with pytest.raises(NotFound):
            archive.extract(tmp_path / "one.zip", tmp_path / "none", prefix="nothing")


class TestContents:
    def test_holds_everything_that_is_promised(self, retiring: Retiring) -> None:
        """Package, data references, verdicts, deployments, monitoring, audit with signed head, lock, texts."""
        _, path = archived(retiring)
        names = set(archive.check_members(path)["members"])
        audit = json.loads(archive.read_member(path, "audit.json"))
        lock = archive.read_member(path, "environment.txt").decode()

        assert {
            "data-references.json",
            "validations.json",
            "deployments.json",
            "monitoring.json",
            "audit.json",
            "environment.txt",
            "retirement.json",
            "model-card.md",
            "handover.md",
            "package/manifest.json",
            "package/model.onnx",
            "package/golden.npz",
        } <= names
        assert audit["intact"]
        assert audit["head"]["signature"]
        assert "retirement.archiving" in audit["entries"][-1]["body"]
        assert "onnxruntime==" in lock

    def test_the_archived_head_is_signed_by_the_workspace(self, retiring: Retiring) -> None:
        """Whoever has the public key can check the extract later, elsewhere."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        _, path = archived(retiring)
        audit = json.loads(archive.read_member(path, "audit.json"))
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(audit["public_key"]))
        key.verify(bytes.fromhex(audit["head"]["signature"]), audit["head"]["hash"].encode())

    def test_no_key_of_a_consumer_gets_into_an_archive(self, retiring: Retiring) -> None:
        """Kinds are chosen one by one, and consumers are not among them."""
        from mlcycle_nb.retirement.evidence import KINDS

        assert "consumer" not in KINDS


class TestProof:
    def test_a_flipped_bit_before_the_proof_deletes_nothing(self, retiring: Retiring) -> None:
        """The retirement stops, the package stays, the status says why; a new archive lets it go on."""
        id, path = archived(retiring)
        flip(path, path.stat().st_size * 4)
        with pytest.raises(IntegrityError, match="nothing was deleted"):
            retiring.turn(id)
        retiring.clock.advance(timedelta(weeks=9))
        with pytest.raises(IntegrityError):
            retiring.turn(id)

        assert retiring.package_folder.is_dir()
        assert retiring.record(id).phase == "archiving"
        retiring.service.rearchive(id, reason="the disk was damaged")
        assert retiring.settle(id) == ["write_archive", "verify_archive", "entomb"]

    @pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.9, 0.9999])
    def test_a_flipped_bit_after_the_proof_deletes_nothing(self, retiring: Retiring, place: float) -> None:
        """Everything is read again when the grace is over; the tombstone keeps the package."""
        id, path = archived(retiring)
        retiring.settle(id)
        flip(path, int(path.stat().st_size * 8 * place))
        retiring.clock.advance(timedelta(days=8))
        with pytest.raises(IntegrityError):
            retiring.turn(id)

        tombstone = retiring.context.home / retiring.record(id).tombstone
        assert (tombstone / "model.onnx").is_file()
        assert retiring.record(id).deleted_at is None

    def test_a_damaged_package_is_not_archived(self, retiring: Retiring) -> None:
        """Bytes that differ from the registered digest are no archive."""
        id = to_handover(retiring)
        retiring.fill_notes(id)
        flip(retiring.package_folder / "model.onnx", 999)
        retiring.turn(id)
        with pytest.raises(IntegrityError):
            retiring.turn(id)

        assert retiring.record(id).archive is None

    def test_a_model_that_answers_otherwise_is_found(self, retiring: Retiring, tmp_path: Path) -> None:
        """The proof runs the restored model: files that match each other are not enough."""
        from mlcycle_nb.retirement import proof

        _, path = archived(retiring)
        receipt = archive.check_members(path)
        other = retiring.packages[1]
        members = [
            Member.of(name, (other.path / "model.onnx").read_bytes() if name == "package/model.onnx" else content)
            for name in receipt["members"]
            for content in [archive.read_member(path, name)]
        ]
        forged = archive.write_archive(tmp_path / "forged.zip", members, {})
        with pytest.raises(IntegrityError):
            proof.prove(retiring.context, tmp_path / "forged.zip", forged.sha256, retiring.packages[0].digest)

    def test_the_proof_leaves_no_scratch(self, retiring: Retiring) -> None:
        """Restored once, scored, and gone again."""
        id, _ = archived(retiring)
        retiring.settle(id)

        assert list((retiring.context.home / "scratch").iterdir()) == []
