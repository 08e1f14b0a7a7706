"""Small things that all stages stand on: files, clocks, outcomes."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from datetime import UTC, timedelta
from pathlib import Path

import pytest

from mlcycle_nb.clock import OffsetClock, SystemClock
from mlcycle_nb.errors import InvalidInput, StoreError, WaitTimeout
from mlcycle_nb.files import disk_trouble_told, private_folder, read_small_file, sha256_file, write_atomically
from mlcycle_nb.outcomes import Outcome, overall
from mlcycle_nb.testing import FakeClock


class TestFiles:
    """Old bytes or new ones, never a part; for this user only."""

    def test_a_folder_is_made_private(self, tmp_path: Path) -> None:
        """Also when it was there, open to all."""
        folder = tmp_path / "a" / "b"
        folder.mkdir(parents=True, mode=0o777)
        folder.chmod(0o777)

        assert stat.S_IMODE(private_folder(folder).stat().st_mode) == 0o700

    @pytest.mark.parametrize("durable", [True, False])
    def test_content_is_replaced(self, durable: bool, tmp_path: Path) -> None:
        """Text or bytes, with the mode asked for, and nothing left beside it."""
        file = tmp_path / "f"
        write_atomically(file, "grüße", durable=durable)
        write_atomically(file, b"\x00", durable=durable, mode=0o640)

        assert file.read_bytes() == b"\x00"
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        assert list(tmp_path.iterdir()) == [file]

    def test_a_failed_write_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """And no staged one."""
        file = tmp_path / "f"
        write_atomically(file, "old")

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            write_atomically(file, "new")

        assert file.read_text() == "old"
        assert list(tmp_path.iterdir()) == [file]

    def test_bytes_are_synced_before_the_name_and_the_name_before_the_return(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After power loss the name must not lead to bytes that were never written."""
        calls = []
        fsync, replace = os.fsync, os.replace

        def record_fsync(descriptor: int) -> None:
            calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
            fsync(descriptor)

        def record_replace(source: Path, target: Path) -> None:
            calls.append("rename")
            replace(source, target)

        monkeypatch.setattr(os, "fsync", record_fsync)
        monkeypatch.setattr(os, "replace", record_replace)
        write_atomically(tmp_path / "f", "x")

        assert calls == ["file", "rename", "folder"]

    def test_a_file_of_exactly_the_limit_is_read(self, tmp_path: Path) -> None:
        """One byte more is refused."""
        file = tmp_path / "f"
        file.write_text("x" * 10)

        assert read_small_file(file, limit=10) == "x" * 10
        with pytest.raises(InvalidInput, match="has 10 bytes, over 9"):
            read_small_file(file, limit=9)

    def test_the_digest_of_a_file(self, tmp_path: Path) -> None:
        """FIPS 180-2, appendix B.1: the digest of `abc`."""
        (tmp_path / "f").write_text("abc")

        assert sha256_file(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


class TestClocks:
    """Times are aware and in UTC; tests and rehearsals move them."""

    def test_the_system_clock_is_aware(self, tmp_path: Path) -> None:
        """A naive time could be any time."""
        assert SystemClock().now().tzinfo is UTC
        assert OffsetClock(tmp_path / "clock.json").now().tzinfo is UTC
        assert SystemClock().monotonic() <= SystemClock().monotonic()

    def test_an_offset_is_seen_by_every_reader_of_the_file(self, tmp_path: Path) -> None:
        """28 days pass at once, also for another process."""
        here, there = OffsetClock(tmp_path / "clock.json"), OffsetClock(tmp_path / "clock.json")
        before = there.now()
        here.advance(timedelta(days=28))
        here.advance(timedelta(hours=1))

        assert here.offset_seconds() == there.offset_seconds() == 28 * 86_400 + 3600
        assert there.now() - before >= timedelta(days=28, hours=1)
        assert list(tmp_path.iterdir()) == [tmp_path / "clock.json"]

    def test_an_offset_clock_is_not_moved_back(self, tmp_path: Path) -> None:
        """What was due stays due."""
        with pytest.raises(InvalidInput, match="cannot be moved back"):
            OffsetClock(tmp_path / "clock.json").advance(timedelta(seconds=-1))

    def test_the_fake_clock_stands_still(self) -> None:
        """Only the test moves it; monotonic time never goes back."""
        clock = FakeClock()
        before = (clock.now(), clock.monotonic())
        clock.advance(timedelta(days=1))
        clock.set_back(timedelta(days=2))

        assert (clock.now() - before[0], clock.monotonic() - before[1]) == (timedelta(days=-1), 86_400)


class TestOutcomes:
    """Nothing is passed that was not shown to be good."""

    def test_nothing_at_all_is_inconclusive(self) -> None:
        """Absence is not success."""
        assert overall([]) is Outcome.INCONCLUSIVE

    @pytest.mark.parametrize("pair", list(itertools.product(Outcome, Outcome)))
    def test_the_worse_of_two_counts(self, pair: tuple[Outcome, Outcome]) -> None:
        """Error, failed, inconclusive, skipped, passed; in either order, and however often."""
        order = ["error", "failed", "inconclusive", "skipped", "passed"]
        worst = min(pair, key=lambda outcome: order.index(outcome.value))

        assert overall(pair) is overall(reversed(pair)) is overall(pair * 3) is worst
        assert (overall(pair) is Outcome.PASSED) == (set(pair) == {Outcome.PASSED})


class TestDiskTrouble:
    """What a person is told of a disk; everything else stays what it is."""

    def test_a_full_disk(self) -> None:
        """As the kernel says it, with what to do."""
        told = pytest.raises(StoreError, match=r"No space left on device - make room .*df -h")
        with told, disk_trouble_told(), open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")

    @pytest.mark.parametrize(
        ("number", "remedy"),
        [(errno.EDQUOT, "make room"), (errno.EROFS, "mounted for writing"), (errno.EIO, "disk or its connection")],
    )
    def test_what_helps_depends_on_what_is_wrong(self, number: int, remedy: str) -> None:
        """Room does not help a disk that may not be written."""
        with pytest.raises(StoreError, match=remedy) as caught, disk_trouble_told():
            raise OSError(number, os.strerror(number), "/somewhere")

        assert "/somewhere" in str(caught.value)

    @pytest.mark.parametrize("failure", [PermissionError(errno.EACCES, "no"), WaitTimeout("too long"), KeyError("x")])
    def test_other_failures_are_left(self, failure: Exception) -> None:
        """A wait that ended is a failure of the system by its class, and none of the disk's."""
        with pytest.raises(type(failure)) as caught, disk_trouble_told():
            raise failure

        assert caught.value is failure
