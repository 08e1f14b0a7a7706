"""A model's log stays within its bytes and its age, and nothing else is ever removed."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.log_care import LogCare
from mlcycle_nb.serving.prediction_compaction import compact
from mlcycle_nb.serving.prediction_log import read_predictions
from mlcycle_nb.serving.prediction_retention import Retention, _File, _remove, keep_within

from .test_prediction_log import batch, until, write

DAY = 86_400.0
EVERYTHING = Retention(max_bytes=2**40, max_age=timedelta(days=3650))


def ids(root: Path, version: int | None = None) -> list[str]:
    table = read_predictions(root, "dev", "digits", version=version)
    return sorted(table["prediction_id"].to_pylist()) if table.num_columns else []


def folder(root: Path, version: int) -> Path:
    return root / "dev" / "digits" / f"v{version}"


def aged(root: Path, version: int, days: float) -> None:
    """Make a version's files that old, as their times say."""
    moment = time.time() - days * DAY
    for path in folder(root, version).glob("0*"):
        os.utime(path, (moment, moment))


def written(root: Path, version: int, names: str) -> int:
    """Write one segment a letter; return the bytes of one."""
    for name in names:
        write(root, batch((name, 1)), version=version)
    return next(folder(root, version).glob("*.arrow")).stat().st_size


class TestBounds:
    """The oldest go first, over all versions of a model together."""

    def test_bytes(self, tmp_path: Path) -> None:
        """Two versions that were served in turns: the oldest rows go, whoever gave them."""
        size = written(tmp_path, 1, "ab")
        written(tmp_path, 2, "cd")
        written(tmp_path, 1, "ef")
        done = keep_within(tmp_path, "dev", Retention(max_bytes=3 * size + 1, max_age=timedelta(days=1)))

        assert (done["digits"].removed, done["digits"].removed_bytes) == (3, 3 * size)
        assert (ids(tmp_path, 1), ids(tmp_path, 2)) == (["e", "f"], ["d"])

    def test_age(self, tmp_path: Path) -> None:
        """A version that nobody serves any more loses what is too old; a young one loses nothing."""
        written(tmp_path, 1, "ab")
        aged(tmp_path, 1, days=31)
        written(tmp_path, 2, "cd")
        aged(tmp_path, 2, days=29)
        keep_within(tmp_path, "dev", Retention(max_bytes=2**40, max_age=timedelta(days=30)))

        assert ids(tmp_path) == ["c", "d"]

    def test_other_models_and_environments(self, tmp_path: Path) -> None:
        """Each model has bounds of its own; another environment is not looked at."""
        size = written(tmp_path, 1, "ab")
        other = tmp_path / "production" / "digits"
        other.mkdir(parents=True)
        folder(tmp_path, 1).rename(other / "v1")
        written(tmp_path, 1, "cd")
        (tmp_path / "dev" / "letters").mkdir()
        (tmp_path / "dev" / "letters" / "v1").mkdir()
        done = keep_within(tmp_path, "dev", Retention(max_bytes=size + 1, max_age=timedelta(days=1)))

        assert sorted(done) == ["digits", "letters"]
        assert ids(tmp_path) == ["d"]
        assert len(list((other / "v1").glob("*.arrow"))) == 2

    def test_what_is_being_written(self, tmp_path: Path) -> None:
        """Neither a staged segment nor the counts of a replica are anybody's rows."""
        written(tmp_path, 1, "a")
        staged = folder(tmp_path, 1) / ".00000000000000000001-1-000001.arrow.tmp"
        staged.write_bytes(b"half")
        hidden = folder(tmp_path, 1) / ".00000000000000000002.arrow"
        hidden.write_bytes(b"whole")
        aged(tmp_path, 1, days=2)
        before = {path.name for path in folder(tmp_path, 1).glob("stats-*.json")}
        keep_within(tmp_path, "dev", Retention(max_bytes=0, max_age=timedelta(days=1)))

        assert (staged.read_bytes(), hidden.read_bytes()) == (b"half", b"whole")
        assert before
        assert {path.name for path in folder(tmp_path, 1).glob("stats-*.json")} == before
        assert ids(tmp_path) == []

    def test_nothing_was_ever_logged(self, tmp_path: Path) -> None:
        """No folder, nothing done, nothing made."""
        assert keep_within(tmp_path, "dev", EVERYTHING) == {}
        assert list(tmp_path.iterdir()) == []


class TestMerging:
    """What a replica left behind becomes Parquet, and is read as before."""

    def test_of_a_version_that_stopped(self, tmp_path: Path) -> None:
        """Few segments, but old: nobody else will merge them. Young ones wait for the replica's own pass."""
        written(tmp_path, 1, "abc")
        aged(tmp_path, 1, days=1)
        written(tmp_path, 2, "de")
        aged(tmp_path, 2, days=1 / 48)
        done = keep_within(tmp_path, "dev", EVERYTHING)

        assert done["digits"].merged == 3
        assert [path.suffix for path in folder(tmp_path, 1).glob("0*")] == [".parquet"]
        assert [path.suffix for path in folder(tmp_path, 2).glob("0*")] == [".arrow", ".arrow"]
        assert ids(tmp_path) == list("abcde")
        assert keep_within(tmp_path, "dev", EVERYTHING)["digits"].merged == 0

    def test_the_age_of_a_merged_file(self, tmp_path: Path) -> None:
        """It is that of its newest row, so merging makes nothing young again."""
        written(tmp_path, 1, "ab")
        aged(tmp_path, 1, days=20)
        keep_within(tmp_path, "dev", EVERYTHING)
        kept = Retention(max_bytes=2**40, max_age=timedelta(days=25))

        assert keep_within(tmp_path, "dev", kept)["digits"].removed == 0
        assert keep_within(tmp_path, "dev", kept, now=time.time() + 6 * DAY)["digits"].removed == 1

    def test_while_a_merge_runs(self, tmp_path: Path) -> None:
        """Its files stay for this pass, and go with the next."""
        written(tmp_path, 1, "ab")
        gone = Retention(max_bytes=0, max_age=timedelta(days=1))
        with (folder(tmp_path, 1) / ".compact.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert keep_within(tmp_path, "dev", gone)["digits"].removed == 0
            assert ids(tmp_path) == ["a", "b"]
        assert keep_within(tmp_path, "dev", gone)["digits"].removed == 2


class TestCrashes:
    """kill -9 at any place: no row comes back, none beyond the bounds is lost."""

    @pytest.mark.parametrize("passes", [1, 2, 3])
    def test_between_removals(self, tmp_path: Path, passes: int) -> None:
        """What was removed is the oldest; the next pass goes on."""
        size = written(tmp_path, 1, "abcde")
        argv = [sys.executable, "-m", "mlcycle_nb.serving.prediction_retention", str(tmp_path), "dev"]
        argv += ["--bytes", str(2 * size + 1), "--days", "1"]
        crash = {**os.environ, "MLCYCLE_CRASH_AT": f"prediction_log.before_remove:{passes}"}

        assert subprocess.run(argv, env=crash, check=False).returncode == -signal.SIGKILL
        assert ids(tmp_path) == list("abcde")[passes - 1 :]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        assert ids(tmp_path) == ["d", "e"]
        assert f"removed {4 - passes} files" in done.stdout

    def test_segments_that_a_merge_has_replaced(self, tmp_path: Path) -> None:
        """A merge was killed before it removed them; the merged file's end is not their return."""
        written(tmp_path, 1, "abc")
        aged(tmp_path, 1, days=2)
        copies = {path: path.read_bytes() for path in folder(tmp_path, 1).glob("*.arrow")}
        compact(folder(tmp_path, 1), min_segments=2)
        for path, content in copies.items():  # as the kill would have left them
            path.write_bytes(content)
        (merged,) = folder(tmp_path, 1).glob("*.parquet")
        # Not through keep_within, which merges before: a replica's own merge may be killed between the two.
        assert len(list(_remove(folder(tmp_path, 1), [_File(merged, 1, 1.0)]))) == 1

        assert ids(tmp_path) == []


def test_readers_have_both(tmp_path: Path) -> None:
    """Merged and unmerged files of several versions give the table that the segments gave."""
    written(tmp_path, 1, "abc")
    written(tmp_path, 2, "de")
    before = read_predictions(tmp_path, "dev", "digits")
    aged(tmp_path, 1, days=1)
    keep_within(tmp_path, "dev", EVERYTHING)

    assert read_predictions(tmp_path, "dev", "digits").equals(before)
    assert read_predictions(tmp_path, "dev", "digits", since=datetime.now(UTC) - timedelta(hours=1)).num_rows >= 2


def test_the_supervisors_care(context: Context) -> None:
    """A pass is due after a while, then again; it is a process of the table, and takes the bounds from the settings."""
    from dataclasses import replace

    serving = replace(context.settings.serving, prediction_log_days=10.0)
    context = replace(context, settings=replace(context.settings, serving=serving))
    root = context.folder("predictions")
    written(root, 1, "ab")
    aged(root, 1, days=11)
    written(root, 2, "c")
    assert not LogCare(context, first_seconds=600).turn("dev")
    care = LogCare(context, first_seconds=0, every_seconds=600)

    assert care.turn("dev")
    assert not care.turn("dev")
    assert care.turn("production")
    until(lambda: not context.processes.names("retention-"))
    assert ids(root) == ["c"]
    assert "digits: merged 2 segments, removed 1 files" in (context.home / "logs" / "retention-dev.log").read_text()
