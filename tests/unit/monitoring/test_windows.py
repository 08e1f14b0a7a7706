"""Windows count served rows in stored order, each once, whatever files they lie in by then."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlcycle_nb.monitoring.segments import Mark, is_read, listing, mark_read, read_served, served_rows
from mlcycle_nb.monitoring.windows import Part, Streak, Stream, admit, arrivals, everything_read, take
from mlcycle_nb.serving.prediction_compaction import compact
from mlcycle_nb.store.record import jsonable, structured
from mlcycle_nb.testing.predictions import PredictionFeed


def send(feed: PredictionFeed, values: list[float], **more: object) -> None:
    inputs = np.asarray(values, dtype=np.float32).reshape(-1, 1)
    feed.send(inputs, {"label": np.zeros(len(values), dtype=np.int64)}, **more)  # type: ignore[arg-type]


def values_of(folder: Path, parts: tuple[Part, ...]) -> list[float]:
    stored = {segment.name: segment for segment in listing(folder)}
    found: list[float] = []
    for part in parts:
        table = read_served(stored[part.segment]).slice(part.start, part.rows)
        found += [row[0] for row in table["input"].to_pylist()]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "predictions" / "production" / "credit" / "v1"


class TestArrival:
    def test_a_window_is_full_after_so_many_served_rows_in_stored_order(self, tmp_path: Path, folder: Path) -> None:
        feed = PredictionFeed(tmp_path, "production", "credit", 1)
        for start in (0, 7, 14):
            send(feed, [float(start + i) for i in range(7)])
        stream = admit(Stream(), [(s.name, served_rows(s)) for s in arrivals(folder, Stream())])
        first, left = take(stream, 10)
        second, _ = take(Stream(waiting=left), 10)

        assert stream.pending == 21
        assert values_of(folder, first) == [float(i) for i in range(10)]
        assert values_of(folder, second) == [float(i) for i in range(10, 20)]

    def test_mirrored_rows_are_in_no_window(self, tmp_path: Path, folder: Path) -> None:
        feed = PredictionFeed(tmp_path, "production", "credit", 1)
        send(feed, [1.0, 2.0])
        send(feed, [100.0] * 50, mirrored=True)
        send(feed, [3.0])
        stream = admit(Stream(), [(s.name, served_rows(s)) for s in arrivals(folder, Stream())])

        assert stream.pending == 3
        assert values_of(folder, take(stream, 3)[0]) == [1.0, 2.0, 3.0]

    def test_fewer_rows_wait(self) -> None:
        stream = Stream(waiting=(Part("a", 0, 37),))

        assert take(stream, 100) == ((), stream.waiting)

    def test_nothing_arrives_twice(self, tmp_path: Path, folder: Path) -> None:
        feed = PredictionFeed(tmp_path, "production", "credit", 1)
        send(feed, [1.0])
        stream = admit(Stream(), [(s.name, 1) for s in arrivals(folder, Stream())])

        assert arrivals(folder, stream) == []
        send(feed, [2.0])
        assert len(arrivals(folder, stream)) == 1

    def test_what_was_stored_before_the_start_is_left_out(self, tmp_path: Path, folder: Path) -> None:
        feed = PredictionFeed(tmp_path, "production", "credit", 1)
        send(feed, [1.0])
        stream = everything_read(folder)
        send(feed, [2.0])
        new = arrivals(folder, stream)

        assert [read_served(s)["input"].to_pylist() for s in new] == [[[2.0]]]

    def test_no_folder_is_no_rows(self, folder: Path) -> None:
        assert arrivals(folder, Stream()) == []


class TestMerges:
    def test_rows_are_found_after_segments_were_merged(self, tmp_path: Path, folder: Path) -> None:
        feed = PredictionFeed(tmp_path, "production", "credit", 1)
        for number in range(20):
            send(feed, [float(number)], mirrored=number == 3)
        before = [s.name for s in listing(folder)]
        half = admit(Stream(), [(s.name, served_rows(s)) for s in arrivals(folder, Stream())[:10]])
        assert compact(folder, min_age=timedelta(0)).merged == 20

        assert [s.name for s in listing(folder)] == before
        assert not list(folder.glob("*.arrow"))
        rest = admit(half, [(s.name, served_rows(s)) for s in arrivals(folder, half)])
        assert values_of(folder, take(rest, 19)[0]) == [float(i) for i in range(20) if i != 3]


class TestMarks:
    def test_a_clock_set_back_hides_nothing(self) -> None:
        marks = mark_read(f"{2_000:020d}-77-000005.arrow", ())

        assert not is_read(f"{1_000:020d}-77-000006.arrow", marks)
        assert is_read(f"{1_000:020d}-77-000004.arrow", marks)

    def test_a_later_process_with_the_same_id_is_another_writer(self) -> None:
        marks = mark_read(f"{1_000:020d}-77-000500.arrow", ())
        later = f"{9_000:020d}-77-000001.arrow"
        assert not is_read(later, marks)
        marks = mark_read(later, marks)

        assert is_read(later, marks)
        assert is_read(f"{900:020d}-77-000400.arrow", marks)
        assert not is_read(f"{9_100:020d}-77-000002.arrow", marks)

    def test_marks_stay_few(self) -> None:
        marks: tuple[Mark, ...] = ()
        for number in range(1, 1001):
            marks = mark_read(f"{number:020d}-77-{number:06d}.arrow", marks)

        assert marks == (Mark(77, 1000, 1000),)

    def test_a_foreign_file_is_never_new(self) -> None:
        assert is_read("notes.txt", ())


@given(st.lists(st.integers(0, 30), max_size=12), st.integers(1, 25))
def test_windows_cut_any_sequence_without_loss_or_repeat(sizes: list[int], rows: int) -> None:
    arrived = [(f"{i:020d}-1-{i:06d}.arrow", size) for i, size in enumerate(sizes, 1)]
    stream = admit(Stream(), arrived)
    everything = [(name, row) for name, size in arrived for row in range(size)]
    cut: list[tuple[str, int]] = []
    windows = 0
    while True:
        parts, left = take(stream, rows)
        if not parts:
            break
        assert sum(part.rows for part in parts) == rows
        cut += [(part.segment, row) for part in parts for row in range(part.start, part.stop)]
        stream = Stream(waiting=left)
        windows += 1

    assert windows == sum(sizes) // rows
    assert cut == everything[: windows * rows]


def test_a_stream_survives_storage() -> None:
    stream = admit(
        Stream(control={"data": {"q": 0.05, "steps": 3, "method": "spending", "rejections": []}}),
        [(f"{1:020d}-1-000001.arrow", 5)],
    )
    stored = json.loads(json.dumps(jsonable(stream)))

    assert structured(stored, Stream) == stream


def test_streaks() -> None:
    streak = Streak().after("bad").after("bad").after("unknown")

    assert streak == Streak(bad=2)
    assert streak.after("clear") == Streak(clear=1)
