"""The prediction log: nothing waits for it, what it loses is counted, what it keeps is read once."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.serving.batching import Batch, Call
from mlcycle_nb.serving.prediction_compaction import compact
from mlcycle_nb.serving.prediction_log import PredictionLogWriter, copy_totals, log_totals, read_predictions

pytestmark = pytest.mark.timeout(60)


def batch(*requests: tuple[str, int], width: int = 4, mirrored: bool = False, regression: bool = False) -> Batch:
    calls = []
    for name, rows in requests:
        call = Call(np.full((rows, width), len(name), np.float32), name, "shop", mirrored, 0.0)
        call.latency_ms = 1.5
        calls.append(call)
    inputs = np.concatenate([call.array for call in calls])
    if regression:
        return Batch(calls, inputs, {"value": np.arange(len(inputs), dtype=np.float32)})
    probabilities = np.tile(np.asarray([[0.25, 0.75]], np.float32), (len(inputs), 1))
    return Batch(calls, inputs, {"label": np.ones(len(inputs), np.int64), "probabilities": probabilities})


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.01)


def writer(root: Path, version: int = 7, **options: Any) -> PredictionLogWriter:
    return PredictionLogWriter(root, "dev", "digits", version, **options)


def write(root: Path, *batches: Batch, version: int = 7, **options: Any) -> PredictionLogWriter:
    """Log batches, each in a segment of its own."""
    log = writer(root, version, flush_seconds=0.01, **options)
    log.start()
    for number, item in enumerate(batches, 1):
        log.append(item)
        until(lambda number=number: log.segments + log.write_errors >= number)  # type: ignore[misc]
    log.close()
    return log


class TestWriting:
    """What was answered is what is read."""

    def test_columns(self, tmp_path: Path) -> None:
        """One row a prediction, with everything about it."""
        write(tmp_path, batch(("a", 2), ("bb", 1)))
        table = read_predictions(tmp_path, "dev", "digits")

        assert table.column_names == [
            "prediction_id", "time", "version", "consumer", "mirrored", "row", "input", "label", "probabilities",
            "latency_ms",
        ]  # fmt: skip
        assert table["prediction_id"].to_pylist() == ["a", "a", "bb"]
        assert table["row"].to_pylist() == [0, 1, 0]
        assert table["input"].to_pylist() == [[1.0] * 4, [1.0] * 4, [2.0] * 4]
        assert table["probabilities"].to_pylist() == [[0.25, 0.75]] * 3
        assert set(table["version"].to_pylist()) == {7}
        assert str(table.schema.field("time").type) == "timestamp[us, tz=UTC]"

    def test_regression(self, tmp_path: Path) -> None:
        """Regressors have a value."""
        write(tmp_path, batch(("a", 3), regression=True))

        assert read_predictions(tmp_path, "dev", "digits")["value"].to_pylist() == [0.0, 1.0, 2.0]

    def test_flushes_by_itself(self, tmp_path: Path) -> None:
        """Rows are on disk soon, without a close and without a full ring."""
        log = writer(tmp_path)
        log.start()
        log.append(batch(("a", 1)))
        until(lambda: log.written_rows == 1, 10)

        assert len(read_predictions(tmp_path, "dev", "digits")) == 1
        log.close()

    def test_files_are_private(self, tmp_path: Path) -> None:
        """Inputs may be personal data: 0600 files, no stray ones."""
        write(tmp_path, batch(("a", 1)))
        files = [path for path in tmp_path.rglob("*") if path.is_file()]

        assert sorted(path.suffix for path in files) == [".arrow", ".json"]
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}

    def test_without_pandas(self, tmp_path: Path) -> None:
        """A replica's log must not pull pandas in: it has no other use for its 55 MB."""
        code = (
            "import sys, numpy as np; from pathlib import Path\n"
            "from mlcycle_nb.serving.batching import Batch, Call\n"
            "from mlcycle_nb.serving.prediction_log import PredictionLogWriter\n"
            "rows = np.zeros((3, 4), np.float32)\n"
            "out = {'label': np.zeros(3, np.int64), 'probabilities': np.zeros((3, 2), np.float32)}\n"
            "log = PredictionLogWriter(Path(sys.argv[1]), 'dev', 'digits', 7); log.warm(rows, out); log.start()\n"
            "log.append(Batch([Call(rows, 'a', '', False, 0.0)], rows, out)); log.close()\n"
            "assert log.written_rows == 3\n"
            "print([name for name in ('pandas', 'torch', 'mlflow', 'sklearn') if name in sys.modules])\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)

        assert done.stdout.strip() == "[]"


class TestBounds:
    """The ring is bounded; drops are counted, never silent."""

    def test_drops_the_oldest(self, tmp_path: Path) -> None:
        """Without anyone writing, the newest rows stay and the rest is counted."""
        log = writer(tmp_path, ring_rows=10)
        for number in range(25):
            log.append(batch((f"r{number:02d}", 1)))
        assert log.dropped_rows == 15
        log.start()
        log.close()

        assert log.written_rows == 10
        assert read_predictions(tmp_path, "dev", "digits")["prediction_id"].to_pylist()[0] == "r15"
        assert log_totals(tmp_path, "dev", "digits", 7)["dropped_rows"] == 15

    def test_bounded_in_bytes(self, tmp_path: Path) -> None:
        """Large rows fill the ring sooner."""
        log = writer(tmp_path, ring_bytes=100_000)
        for _ in range(10):
            log.append(batch(("a", 10), width=1000))

        assert log.dropped_rows == 80

    def test_failing_disk(self, tmp_path: Path) -> None:
        """While segments cannot be written, rows are counted as lost; afterwards the log goes on."""
        obstacle = tmp_path / "dev"
        obstacle.write_text("a file where a folder should be")
        log = writer(tmp_path, flush_seconds=0.01)
        log.start()
        log.append(batch(("lost", 3)))
        until(lambda: log.write_errors >= 1)
        assert log.dropped_rows == 3
        obstacle.unlink()
        log.append(batch(("kept", 2)))
        until(lambda: log.written_rows == 2)
        log.close()

        assert read_predictions(tmp_path, "dev", "digits")["prediction_id"].to_pylist() == ["kept", "kept"]

    def test_appends_from_another_thread_lose_nothing_uncounted(self, tmp_path: Path) -> None:
        """Written and dropped rows add up, with producer and writer racing over a small ring."""
        log = writer(tmp_path, ring_rows=50, flush_seconds=0.001)
        log.start()
        thread = threading.Thread(target=lambda: [log.append(batch(("a", 3))) for _ in range(3000)])
        thread.start()
        thread.join()
        log.close()

        assert log.written_rows + log.dropped_rows == 9000
        assert log.written_rows > 0

    def test_sampling_depends_on_the_id_alone(self, tmp_path: Path) -> None:
        """Two versions keep the same requests, whole ones, and about the share asked for."""
        names = [(f"request-{number}", 2) for number in range(400)]
        for version in (1, 2):
            write(tmp_path, batch(*names), version=version, sample_rate=0.25)
        first, second = (read_predictions(tmp_path, "dev", "digits", version=version) for version in (1, 2))

        assert first["prediction_id"].to_pylist() == second["prediction_id"].to_pylist()
        assert len(first) % 2 == 0
        assert 120 < len(first) < 280


class TestReading:
    """Filters, and each prediction once."""

    def test_filters(self, tmp_path: Path) -> None:
        """By version, by mirror flag, by time."""
        write(tmp_path, batch(("a", 1)), version=1)
        middle = datetime.now(UTC)
        write(tmp_path, batch(("b", 1)), version=2)
        write(tmp_path, batch(("c", 1), mirrored=True), version=2)

        def ids(**filters: Any) -> list[str]:
            table = read_predictions(tmp_path, "dev", "digits", **filters)
            return sorted(table["prediction_id"].to_pylist()) if table.num_columns else []

        assert ids() == ["a", "b"]
        assert ids(version=2) == ["b"]
        assert ids(version=3) == []
        assert ids(mirrored=True) == ["c"]
        assert ids(mirrored=None) == ["a", "b", "c"]
        assert ids(since=middle, mirrored=None) == ["b", "c"]
        assert ids(until=middle) == ["a"]
        assert ids(since=middle + timedelta(days=1)) == []

    def test_retried_request_counts_once(self, tmp_path: Path) -> None:
        """A request that the gateway sent twice is one prediction."""
        write(tmp_path, batch(("a", 2), ("b", 1)), batch(("a", 2)))
        table = read_predictions(tmp_path, "dev", "digits")

        assert sorted(zip(table["prediction_id"].to_pylist(), table["row"].to_pylist(), strict=True)) == [
            ("a", 0), ("a", 1), ("b", 0),
        ]  # fmt: skip

    def test_without_inputs(self, tmp_path: Path) -> None:
        """Of segments and of merged files alike, and of versions with other inputs; the same rows as with them."""
        for name in "abc":
            write(tmp_path, batch((name, 2)), version=1)
        assert compact(tmp_path / "dev" / "digits" / "v1", min_age=timedelta(0), min_segments=2).merged
        write(tmp_path, batch(("d", 1)), version=1)
        write(tmp_path, batch(("e", 1), width=6, regression=True), version=2)
        whole = read_predictions(tmp_path, "dev", "digits")
        narrow = read_predictions(tmp_path, "dev", "digits", columns=("label", "value", "no such column"))

        assert set(narrow.column_names) == {*("prediction_id", "time", "version", "mirrored", "row", "label", "value")}
        assert narrow.to_pylist() == whole.select(narrow.column_names).to_pylist()
        assert len(narrow) == 8

    def test_versions_with_other_inputs(self, tmp_path: Path) -> None:
        """Versions with more features, or another task, are read together."""
        write(tmp_path, batch(("a", 1)), version=1)
        write(tmp_path, batch(("b", 1), width=6, regression=True), version=2)
        table = read_predictions(tmp_path, "dev", "digits")

        assert [len(row) for row in table["input"].to_pylist()] == [4, 6]
        assert table["value"].to_pylist() == [None, 0.0]

    def test_naive_times_are_refused(self, tmp_path: Path) -> None:
        """A time without a zone could be any hour."""
        with pytest.raises(InvalidInput, match="aware"):
            read_predictions(tmp_path, "dev", "digits", since=datetime(2026, 1, 1))

    @pytest.mark.parametrize("model", ["../x", "a/b", ""])
    def test_names_are_checked(self, tmp_path: Path, model: str) -> None:
        """A model name cannot leave the log's folder."""
        with pytest.raises(InvalidInput):
            read_predictions(tmp_path, "dev", model)


class TestCompaction:
    """Segments become Parquet; no row is lost or doubled, whenever it stops."""

    def folder(self, root: Path, segments: int = 8) -> Path:
        write(root, *[batch((f"r{number}", 2)) for number in range(segments)])
        return root / "dev" / "digits" / "v7"

    def ids(self, root: Path) -> list[str]:
        return sorted(read_predictions(root, "dev", "digits")["prediction_id"].to_pylist())

    def test_same_rows(self, tmp_path: Path) -> None:
        """One Parquet file instead of eight segments, the same table."""
        folder = self.folder(tmp_path)
        before = read_predictions(tmp_path, "dev", "digits")
        done = compact(folder, min_age=timedelta(0), min_segments=2)

        assert done.merged == 8
        assert [path.suffix for path in sorted(folder.glob("0*"))] == [".parquet"]
        assert read_predictions(tmp_path, "dev", "digits").equals(before)

    def test_young_and_few_segments_stay(self, tmp_path: Path) -> None:
        """A merge waits for enough segments that are old enough."""
        folder = self.folder(tmp_path, 3)

        assert compact(folder, min_age=timedelta(hours=1), min_segments=2).merged == 0
        assert compact(folder, min_age=timedelta(0), min_segments=4).merged == 0

    def test_one_at_a_time(self, tmp_path: Path) -> None:
        """While another process merges, this one does nothing."""
        import fcntl

        folder = self.folder(tmp_path, 3)
        with (folder / ".compact.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert compact(folder, min_age=timedelta(0), min_segments=2).merged == 0
        assert compact(folder, min_age=timedelta(0), min_segments=2).merged == 3

    @pytest.mark.parametrize("step", range(5))
    def test_killed_in_the_middle(self, tmp_path: Path, step: int) -> None:
        """kill -9 before the rename, and before each of the removals: every row is read once, then and later."""
        folder = self.folder(tmp_path, 4)
        code = (
            "import os, signal, sys; from pathlib import Path; from datetime import timedelta\n"
            "from mlcycle_nb.serving.prediction_compaction import compact\n"
            "left = int(sys.argv[2])\n"
            "def dying(original):\n"
            "    def call(*arguments, **keywords):\n"
            "        global left\n"
            "        left -= 1\n"
            "        if left < 0: os.kill(os.getpid(), signal.SIGKILL)\n"
            "        return original(*arguments, **keywords)\n"
            "    return call\n"
            "os.replace = dying(os.replace); Path.unlink = dying(Path.unlink)\n"
            "compact(Path(sys.argv[1]), min_age=timedelta(0), min_segments=2)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(folder), str(step)], check=False)
        wanted = sorted(f"r{number}" for number in range(4) for _ in range(2))

        assert done.returncode == -signal.SIGKILL
        assert self.ids(tmp_path) == wanted
        compact(folder, min_age=timedelta(0), min_segments=2)
        assert self.ids(tmp_path) == wanted
        assert not list(folder.glob("*.tmp")) + list(folder.glob(".*.tmp"))

    def test_reading_while_merging(self, tmp_path: Path) -> None:
        """A reader between listing and opening finds every row, over many merges."""
        folder = tmp_path / "dev" / "digits" / "v7"
        for number in range(6):
            write(tmp_path, batch((f"old{number}", 1)))
        stop, seen = threading.Event(), []

        def read() -> None:
            while not stop.is_set():
                ids = self.ids(tmp_path)
                seen.append(sum(name.startswith("old") for name in ids))

        thread = threading.Thread(target=read)
        thread.start()
        until(lambda: len(seen) > 2)
        for number in range(6):
            compact(folder, min_age=timedelta(0), min_segments=2)
            write(tmp_path, batch((f"new{number}", 1)), batch((f"more{number}", 1)))
        stop.set()
        thread.join()

        assert set(seen) == {6}

    def test_a_busy_writer_compacts_by_itself(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The writer merges its segments now and then, in a process of its own."""
        from mlcycle_nb.serving import prediction_log

        monkeypatch.setattr(prediction_log, "COMPACT_SEGMENTS", 2)
        log = writer(tmp_path, flush_seconds=0.01, compact_seconds=0.05)
        folder = tmp_path / "dev" / "digits" / "v7"
        write(tmp_path, *[batch((f"r{number}", 1)) for number in range(20)])
        for path in folder.glob("*.arrow"):
            os.utime(path, (time.time() - 60, time.time() - 60))
        log.start()
        for number in range(4):
            log.append(batch((f"n{number}", 1)))
            until(lambda number=number: log.segments > number)  # type: ignore[misc]
        until(lambda: bool(list(folder.glob("*.parquet"))))
        log.close()

        assert log.write_errors == 0
        assert len(self.ids(tmp_path)) == 24


def test_copies_are_told_without_a_single_answer(tmp_path: Path) -> None:
    """A version that fails on every copy logs no prediction; its failures are heard all the same, over all replicas."""
    for told in ((5, 5), (7, 2)):
        log = writer(tmp_path, flush_seconds=0.01)
        log.copies = lambda told=told: told  # type: ignore[misc]
        before = copy_totals(tmp_path, "dev", "digits", 7)
        log.start()
        until(lambda before=before: copy_totals(tmp_path, "dev", "digits", 7) != before)  # type: ignore[misc]
        log.close()

    assert copy_totals(tmp_path, "dev", "digits", 7) == (12, 7)
    assert copy_totals(tmp_path, "dev", "digits", 8) == (0, 0)
    assert log_totals(tmp_path, "dev", "digits", 7)["written_rows"] == 0


def test_stats_survive_restarts(tmp_path: Path) -> None:
    """Totals are over all replicas that a version ever had."""
    write(tmp_path, batch(("a", 2)))
    write(tmp_path, batch(("b", 3)))
    stats = [json.loads(path.read_text()) for path in (tmp_path / "dev" / "digits" / "v7").glob("stats-*.json")]

    assert sorted(item["written_rows"] for item in stats) == [2, 3]
    assert log_totals(tmp_path, "dev", "digits", 7)["written_rows"] == 5
