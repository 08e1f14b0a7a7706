"""Late labels: read strictly, joined by id, measured with interval, coverage and lag."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.errors import InvalidInput, NotFound
from mlcycle_nb.monitoring.labelling import record
from mlcycle_nb.monitoring.records import Alert
from mlcycle_nb.packages import Package, load_runtime
from mlcycle_nb.serving.labels import FOLD_FILES, Label, LabelStore, as_index, from_mapping, read_csv
from mlcycle_nb.testing import FakeClock
from mlcycle_nb.testing.predictions import PredictionFeed
from tests.unit.monitoring.conftest import rows


class Registered:
    """Answers which package a version is, as the registry does."""

    def __init__(self, package: Package) -> None:
        self.package_digest = package.digest

    def get_version(self, reference: str) -> Registered:
        assert reference == "credit/1"
        return self


class TestReading:
    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ("", "column prediction_id is missing"),
            ("prediction_id,label\n", "holds no label"),
            ("prediction_id\nx\n", "column label is missing"),
            ("prediction_id,lable\nx,1\n", "did you mean 'label'"),
            ("prediction_id,label\nx,1,2\n", "3 cells, the header has 2"),
            ("prediction_id,label\nx,\n", "an empty cell"),
            ("prediction_id,label\nx,nan\n", "this is not a label"),
            ("prediction_id,label,row\nx,1,-1\n", "row is not a whole number"),
            ('prediction_id,label\n"x,1\n', "not CSV"),
        ],
    )
    def test_bad_files_are_refused_by_name(self, tmp_path: Path, text: str, error: str) -> None:
        file = tmp_path / "labels.csv"
        file.write_text(text)
        with pytest.raises(InvalidInput, match=error):
            read_csv(file)

    def test_a_good_file_with_a_byte_order_mark(self, tmp_path: Path) -> None:
        file = tmp_path / "labels.csv"
        file.write_bytes(b"\xef\xbb\xbfprediction_id,row,label\r\np1,2,yes\r\n\r\np2,,no\r\n")

        assert [(x.prediction_id, x.row, x.label) for x in read_csv(file)] == [("p1", 2, "yes"), ("p2", 0, "no")]

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="no such file"):
            read_csv(tmp_path / "none.csv")

    def test_mappings_and_triples(self) -> None:
        assert from_mapping({"p": np.int64(1)})[0].label == "1"
        assert from_mapping([("p", 3, True)])[0] == from_mapping([("p", 3, 1)])[0]
        with pytest.raises(InvalidInput, match="no label"):
            from_mapping({})

    def test_a_class_name_comes_before_a_number(self) -> None:
        assert as_index("5", ("3", "5")) == 1
        assert as_index("0", ("no", "yes")) == 0
        assert np.isnan(as_index("maybe", ("no", "yes")))


class TestStore:
    def test_what_was_corrected_can_be_corrected_back(self, tmp_path: Path, fake_clock) -> None:
        store = LabelStore(tmp_path, "production", "credit")
        for label in ("x", "y", "x", "x"):
            store.add([Label("a", 0, label)], fake_clock.now())
        table = store.all()

        assert table is not None
        assert table["truth"].to_pylist() == ["x"]
        assert len(store.names()) == 3

    def test_the_same_labels_again_change_nothing_and_later_ones_win(self, tmp_path: Path, fake_clock) -> None:
        store = LabelStore(tmp_path, "production", "credit")
        store.add(from_mapping({"a": "no", "b": "no"}), fake_clock.now())
        store.add(from_mapping({"a": "no", "b": "no"}), fake_clock.now())
        store.add(from_mapping({"b": "yes"}), fake_clock.now())
        table = store.all()

        assert len(list((tmp_path / "production" / "credit").iterdir())) == 2
        assert dict(zip(table["prediction_id"].to_pylist(), table["truth"].to_pylist(), strict=True)) == {
            "a": "no",
            "b": "yes",
        }

    def test_many_small_files_become_one_and_nobody_sees_a_difference(self, tmp_path: Path, fake_clock) -> None:
        """The file that stays has the last one's name; later files are left, and so are the labels' order and times."""
        store = LabelStore(tmp_path, "production", "credit")
        for number in range(FOLD_FILES + 5):
            fake_clock.advance(timedelta(seconds=1))
            store.add([Label(f"p{number % 40}", 0, str(number))], fake_clock.now())
        before, names = store.all(), store.names()
        until = names[FOLD_FILES - 1]
        assert store.fold(names[FOLD_FILES - 2]) == 0  # one fewer than it takes
        gone = store.fold(until)

        assert gone == FOLD_FILES - 1
        assert store.names() == names[FOLD_FILES - 1 :]
        assert rows_of(store.all()) == rows_of(before)
        assert store.names(after=until) == names[FOLD_FILES:]
        assert store.fold(until) == 0

    def test_a_fold_that_was_cut_short(self, tmp_path: Path, fake_clock) -> None:
        """The folded file is there, and so are the ones in it: the same labels count, and the next fold ends it."""
        store = LabelStore(tmp_path, "production", "credit")
        for number in range(FOLD_FILES):
            store.add([Label(f"p{number % 40}", 0, str(number))], fake_clock.now())
        before = store.all()
        kept = {file.name: file.read_bytes() for file in (tmp_path / "production" / "credit").iterdir()}
        store.fold(store.names()[-1])
        for name in set(kept) - set(store.names()):
            (tmp_path / "production" / "credit" / name).write_bytes(kept[name])

        assert rows_of(store.all()) == rows_of(before)
        assert store.fold(store.names()[-1]) > 0
        assert rows_of(store.all()) == rows_of(before)

    def test_a_reader_whose_list_is_old(self, tmp_path: Path, fake_clock) -> None:
        """Files that are folded between its list and its reading are read from where they went."""
        store = LabelStore(tmp_path, "production", "credit")
        for number in range(FOLD_FILES):
            store.add([Label(f"p{number}", 0, "1")], fake_clock.now())
        reader = Late(tmp_path, "production", "credit")
        reader.then = lambda: store.fold(store.names()[-1])

        found = reader.all()
        assert found is not None
        assert len(found) == FOLD_FILES
        assert reader.then is None


class Late(LabelStore):
    """Somebody folds right after it has listed the files for the first time."""

    then: Callable[[], object] | None = None

    def names(self, *, after: str = "", until: datetime | None = None) -> list[str]:
        found = super().names(after=after, until=until)
        if self.then is not None:
            then, self.then = self.then, None
            then()
        return found


def rows_of(table: pa.Table | None) -> list[dict[str, Any]]:
    assert table is not None
    return sorted(table.to_pylist(), key=lambda row: row["prediction_id"])


class TestMeasuring:
    @pytest.fixture
    def predicted(self, context: Context, package: Package) -> dict[str, int]:
        data = rows(400, 21)
        outputs = load_runtime(package).predict({"input": data})
        ids = PredictionFeed(context.home, "production", "credit", 1).send(data, outputs)
        return dict(zip(ids, outputs["label"].tolist(), strict=True))

    def labelled(self, context: Context, package: Package, labels: dict[str, object]):
        [found] = record(context, Registered(package), "credit", "production", from_mapping(labels))  # type: ignore[arg-type]
        return found

    def test_right_answers(self, context: Context, package: Package, predicted: dict[str, int]) -> None:
        names = ("no", "yes")
        labels = {key: names[value] for key, value in list(predicted.items())[:100]}
        found = self.labelled(context, package, labels)

        assert (found.value, found.labelled, found.served, found.coverage) == (1.0, 100, 400, 0.25)
        assert found.low == pytest.approx(100 / (100 + 1.959964**2), abs=1e-4)  # Wilson's bound for 100 of 100
        assert found.outcome == "passed"
        assert found.baseline is not None
        assert 0.7 < found.baseline < 1.0

    def test_the_lag_is_from_prediction_to_label(
        self, context: Context, package: Package, predicted: dict[str, int], fake_clock: FakeClock
    ) -> None:
        from mlcycle_nb.serving.prediction_log import read_predictions

        answered = read_predictions(context.home / "predictions", "production", "credit")["time"][0].as_py()
        fake_clock.advance(answered - fake_clock.now() + timedelta(hours=2))
        found = self.labelled(context, package, dict(predicted))

        assert found.lag_seconds == pytest.approx(7200, abs=5)

    def test_few_labels_wait(self, context: Context, package: Package, predicted: dict[str, int]) -> None:
        found = self.labelled(context, package, dict(list(predicted.items())[:7]))

        assert (found.outcome, found.why) == ("inconclusive", "waiting 7/20 labels")

    def test_labels_of_no_class_are_counted_and_not_guessed(
        self, context: Context, package: Package, predicted: dict[str, int]
    ) -> None:
        found = self.labelled(context, package, dict.fromkeys(predicted, "maybe"))

        assert found.value is None
        assert found.outcome == "inconclusive"
        assert "400 labels are no class" in found.why

    def test_unknown_ids_are_no_coverage(self, context: Context, package: Package, predicted: dict[str, int]) -> None:
        found = self.labelled(context, package, {"somebody-else": 1})

        assert (found.coverage, found.outcome) == (0.0, "inconclusive")

    def test_a_worse_model_fires_one_alert_and_a_second_look_no_other(
        self, context: Context, package: Package, predicted: dict[str, int], declare
    ) -> None:
        declare()
        wrong = {key: 1 - value for key, value in predicted.items()}
        found = self.labelled(context, package, wrong)
        self.labelled(context, package, wrong)
        [alert] = context.store.find(Alert)

        assert (found.outcome, found.value) == ("failed", 0.0)
        assert (alert.kind, alert.phase) == ("model_drift", "firing")

    def test_without_predictions_there_is_nothing_to_label(self, context: Context, package: Package) -> None:
        with pytest.raises(NotFound, match="no prediction"):
            record(context, Registered(package), "credit", "production", from_mapping({"a": 1}))  # type: ignore[arg-type]
