"""Recordings: what is refused by name, in which order windows come, and what the least columns allow."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.errors import InvalidInput, Refused
from mlcycle_nb.monitoring import replay as replaying
from mlcycle_nb.monitoring.inspection import Inspector
from mlcycle_nb.monitoring.recording import find_recording
from mlcycle_nb.monitoring.records import Monitor
from mlcycle_nb.monitoring.replay import Replay, replay
from mlcycle_nb.packages import Package, load_runtime
from mlcycle_nb.serving.labels import Label, LabelStore
from mlcycle_nb.serving.prediction_log import read_predictions
from mlcycle_nb.testing.predictions import PredictionFeed
from tests.unit.monitoring.conftest import rows


class Feeds:
    """Served rows of some versions, and their replay by the worker's own code."""

    def __init__(self, context: Context, package: Package, declare: Callable[..., Monitor]) -> None:
        self.context = context
        self.package = package
        self.monitor = declare(window=50)
        self.runtime = load_runtime(package)
        self.feeds: dict[int, PredictionFeed] = {}

    def send(self, version: int, inputs: np.ndarray[Any, Any], prefix: str = "") -> list[str]:
        feed = self.feeds.setdefault(version, PredictionFeed(self.context.home, "production", "credit", version))
        start = feed._sent
        ids = [f"{prefix}v{version}-{start + number:06d}" for number in range(len(inputs))]
        return feed.send(inputs, self.runtime.predict({"input": inputs}), ids=ids)

    def logged(self) -> pa.Table:
        return read_predictions(self.context.home / "predictions", "production", "credit")

    def replay(self, recorded: str = "1h", label_times: list[datetime] | None = None) -> Replay:
        recording = find_recording(self.context.home, "production", "credit", recorded)
        digests = dict.fromkeys(recording.segments, self.package.digest)
        return replay(self.monitor, recording, digests, label_times or [], Inspector(self.context.home).answer)


@pytest.fixture
def feeds(context: Context, package: Package, declare: Callable[..., Monitor]) -> Feeds:
    return Feeds(context, package, declare)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "recorded.parquet"


def test_windows_of_two_versions_come_in_the_order_in_which_they_were_full(feeds: Feeds) -> None:
    moved = rows(100, 7)
    moved[:, 0] += 3
    feeds.send(1, rows(60, 101))
    feeds.send(2, moved)
    feeds.send(1, rows(60, 102))
    found = feeds.replay()

    assert [(window.version, window.index) for window in found.windows] == [(1, 1), (2, 1), (2, 2), (1, 2)]
    assert [window.version for window in found.windows if window.outcome == "failed"] == [2, 2]
    assert (found.rows, found.waiting) == (220, 20)
    assert found.alerts[0].versions == (2,)


def test_a_bad_recording_is_named(feeds: Feeds, file: Path) -> None:
    feeds.send(1, rows(60, 101))
    table = feeds.logged()

    def refused(bad: pa.Table) -> str:
        pq.write_table(bad, file)
        with pytest.raises(InvalidInput) as caught:
            feeds.replay(str(file))
        return str(caught.value)

    def with_column(name: str, values: Any) -> pa.Table:
        return table.set_column(table.schema.get_field_index(name), name, values)

    assert "lacks version" in refused(table.drop_columns(["version"]))
    assert "lacks input" in refused(table.drop_columns(["input"]))
    assert "no time zone" in refused(with_column("time", table["time"].cast(pa.timestamp("us"))))
    assert "rows without row" in refused(with_column("row", pa.array([None] * len(table), pa.int32())))
    assert "no whole numbers" in refused(with_column("version", pa.array(["1"] * len(table))))
    assert "no texts" in refused(with_column("prediction_id", pa.array(range(len(table)))))
    assert "nothing was recorded" in refused(table.slice(0, 0))
    file.write_bytes(b"PAR1 is not enough")
    with pytest.raises(InvalidInput, match="cannot be read"):
        feeds.replay(str(file))
    with pytest.raises(InvalidInput, match="nothing was recorded"):
        find_recording(feeds.context.home, "production", "nobody", "24h")


def test_another_writer_s_types_do(feeds: Feeds, file: Path) -> None:
    """pandas writes nanoseconds, polars large texts."""
    feeds.send(1, rows(100, 1))
    table = feeds.logged()
    other = table.set_column(
        table.schema.get_field_index("time"),
        "time",
        pa.array([moment.value + 789 for moment in table["time"].to_pandas()], pa.timestamp("ns", tz="UTC")),
    )
    texts = other["prediction_id"].cast(pa.large_string())
    pq.write_table(other.set_column(other.schema.get_field_index("prediction_id"), "prediction_id", texts), file)

    assert [window.judged for window in feeds.replay(str(file)).windows] == [
        window.judged for window in feeds.replay().windows
    ]


def test_the_least_columns_do(feeds: Feeds, file: Path) -> None:
    feeds.send(1, rows(100, 1))
    pq.write_table(feeds.logged().select(["prediction_id", "time", "version", "row", "input"]), file)
    [window, other] = feeds.replay(str(file)).windows

    assert window.judged == other.judged > 0
    assert window.outcome == "inconclusive"  # what the model answered is not there to be compared
    assert {f.name for f in window.findings if f.why == "the window has no such column"} == {"label", "confidence"}


def test_a_file_is_taken_in_the_order_of_its_times(feeds: Feeds, file: Path) -> None:
    moved = rows(50, 7)
    moved[:, 0] += 3
    feeds.send(1, rows(50, 103))
    feeds.send(1, moved)
    table = feeds.logged()
    pq.write_table(table.take(pa.array(np.random.default_rng(0).permutation(len(table)))), file)

    assert [window.outcome for window in feeds.replay(str(file)).windows] == ["passed", "failed"]


def test_too_many_windows_are_refused(feeds: Feeds, monkeypatch: pytest.MonkeyPatch) -> None:
    feeds.send(1, rows(100, 1))
    monkeypatch.setattr(replaying, "MOST_WINDOWS", 1)
    monkeypatch.setattr(replaying, "_windows", None)  # it is refused before that is worked out
    with pytest.raises(Refused, match="2 windows are more"):
        feeds.replay()


def test_labels_count_from_the_time_at_which_they_were_known(feeds: Feeds) -> None:
    ids = feeds.send(1, rows(100, 1))
    answers = feeds.logged()["label"].to_pylist()
    begin = datetime.now(UTC)
    store = LabelStore(feeds.context.home / "labels", "production", "credit")
    times = [begin + timedelta(minutes=minutes) for minutes in (10, 20, 30)]
    for moment, part in zip(times, (ids[:40], ids[40:70], ids[70:]), strict=True):
        wrong = [Label(key, 0, str(1 - answers[ids.index(key)]), moment) for key in part]
        store.add(wrong, begin)
    store.add([Label("another recording", 0, "1", times[0])], begin)
    found = feeds.replay(label_times=times)
    [alert] = [one for one in found.alerts if one.kind == "model_drift"]

    assert [one.labelled for one in found.performance] == [40, 70, 100]
    assert [one.unknown for one in found.performance] == [0, 0, 0]
    assert found.performance[0].lag_seconds == pytest.approx(600, abs=30)
    assert (alert.phase, alert.fired_at) == ("firing", times[0])


def test_many_looks_at_labels_are_made_few(feeds: Feeds, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    times = [begin + timedelta(seconds=second) for second in range(1000)]
    chosen = replaying._spread(times)

    assert len(chosen) == replaying.LOOKS_AT_LABELS
    assert (chosen[0], chosen[-1]) == (times[0], times[-1])
    assert replaying._spread(times[:3] * 2) == times[:3]
