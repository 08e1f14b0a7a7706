"""Writers as processes: many at once, killed in the middle, and out of space."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlcycle_nb.errors import StoreError
from mlcycle_nb.store import Store
from mlcycle_nb.store.audit import events, verify
from mlcycle_nb.testing import FakeClock
from mlcycle_nb.testing.records import Note

WRITER = """
import signal, sys
from datetime import UTC, datetime
from pathlib import Path
from mlcycle_nb.clock import SystemClock
from mlcycle_nb.store import Store
from mlcycle_nb.testing.records import Note

home, url, who, count, then = sys.argv[1:]
store = Store(Path(home), SystemClock(), url)
for number in range(int(count)):
    with store.transaction(actor=who) as transaction:
        made = Note(id=f"{who}-{number}", phase="open", created_at=datetime.now(UTC))
        transaction.insert(made, event="note.made")
    print(made.id, flush=True)
if then == "hang":
    with store.transaction(actor=who) as transaction:
        transaction.insert(Note(id="never", phase="open", created_at=datetime.now(UTC)), event="note.made")
        print("inside", flush=True)
        signal.pause()
"""


def start(home: Path, url: str, who: str, count: int, then: str = "end") -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", WRITER, str(home), url, who, str(count), then]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


@pytest.mark.timeout(120)
def test_changes_of_many_writers_are_all_kept(
    open_store: Callable[[], Store], tmp_path: Path, database_url: str
) -> None:
    """Four processes with 25 changes each: a hundred records, a hundred entries, one chain."""
    store = open_store()
    writers = [start(tmp_path / ".mlcycle", database_url, f"w{number}", 25) for number in range(4)]
    told = [line for writer in writers for line in writer.communicate(timeout=100)[0].split()]
    verdict = verify(store)

    assert [writer.returncode for writer in writers] == [0, 0, 0, 0]
    assert len(told) == 100
    assert {note.id for note in store.find(Note)} == set(told)
    assert (verdict.intact, verdict.entries, verdict.anchored) == (True, 100, 100), verdict


@pytest.mark.timeout(120)
def test_a_writer_killed_inside_a_change_leaves_the_database_whole(
    open_store: Callable[[], Store], tmp_path: Path, database_url: str
) -> None:
    """What it was told is stored; what it had begun is not; and the next writer need not wait for it."""
    store = open_store()
    writer = start(tmp_path / ".mlcycle", database_url, "w", 3, "hang")
    assert writer.stdout is not None
    told = [writer.stdout.readline().strip() for _ in range(4)]
    writer.kill()
    writer.communicate()

    assert told == ["w-0", "w-1", "w-2", "inside"]
    with store.transaction(actor="next") as transaction:
        transaction.note("went.on", subject="x")
    assert [event["event"] for event in events(store)] == ["note.made"] * 3 + ["went.on"]
    assert store.maybe(Note, "never") is None
    assert verify(store).intact


@pytest.mark.timeout(120)
@pytest.mark.parametrize("acknowledged", [1, 12])
def test_what_a_killed_writer_was_told_is_stored(
    acknowledged: int, open_store: Callable[[], Store], tmp_path: Path, database_url: str
) -> None:
    """Killed wherever it happens to be in its next changes."""
    store = open_store()
    writer = start(tmp_path / ".mlcycle", database_url, "w", 100_000)
    assert writer.stdout is not None
    told = {writer.stdout.readline().strip() for _ in range(acknowledged)}
    writer.kill()
    told |= set(writer.communicate()[0].split("\n")[:-1])  # a torn last line was not an acknowledgement

    assert told <= {note.id for note in store.find(Note)}
    assert verify(store).intact


class TestFullDisk:
    """A disk that is full gives one error, and costs nothing that was acknowledged."""

    @pytest.fixture
    def small_disk(self, tmp_path: Path) -> Iterator[Path]:
        """A file system of one megabyte."""
        folder = tmp_path / "small"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=1M,mode=0700", "tmpfs", str(folder)]
        if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
            pytest.skip("mounting a small file system needs root; the other test limits the size of files")
        yield folder
        subprocess.run(["umount", str(folder)], check=True)

    def test_on_a_full_file_system(self, small_disk: Path, fake_clock: FakeClock) -> None:
        """Once there is room again, work goes on in the same process."""
        store = Store(small_disk / ".mlcycle", fake_clock)
        told = _write_until_refused(store, fake_clock, 40_000)

        assert {note.id for note in store.find(Note)} == set(told)
        assert verify(store).intact
        subprocess.run(["mount", "-o", "remount,size=8M", str(small_disk)], check=True)
        _write(store, fake_clock, "after", 40_000)
        assert verify(store).entries == len(told) + 1
        store.close()

    def test_beyond_the_largest_file(self, tmp_path: Path, fake_clock: FakeClock) -> None:
        """A limit on the size of files, as a quota would be: the same promises."""
        store = Store(tmp_path / ".mlcycle", fake_clock)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, before[1]))  # Python ignores the signal that comes with it
        try:
            told = _write_until_refused(store, fake_clock, 40_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

        assert {note.id for note in store.find(Note)} == set(told)
        _write(store, fake_clock, "after", 40_000)
        verdict = verify(store)
        assert (verdict.intact, verdict.entries) == (True, len(told) + 1)
        store.close()


def _write(store: Store, clock: FakeClock, id: str, size: int) -> None:
    with store.transaction(actor="tester") as transaction:
        transaction.insert(Note(id=id, phase="open", created_at=clock.now(), text="x" * size), event="note.made")


def _write_until_refused(store: Store, clock: FakeClock, size: int) -> list[str]:
    told: list[str] = []

    def fill() -> None:
        for number in range(1000):
            _write(store, clock, f"n{number}", size)
            told.append(f"n{number}")

    with pytest.raises(StoreError, match=r"^MLC-800: the workspace database failed: .* nothing was changed") as caught:
        fill()
    assert "\n" not in str(caught.value)
    assert told, "the disk was full before anything was written"
    return told
