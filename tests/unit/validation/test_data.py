"""Validation data: what cannot be judged by is refused with its place; what is kept is kept by content."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlcycle_nb.errors import IntegrityError, InvalidInput, NotFound
from mlcycle_nb.validation.data import ValidationData, load, read_npz, save
from mlcycle_nb.validation.tables import from_frame, read_file

ROWS = np.arange(12, dtype=np.float64).reshape(6, 2)
LABELS = [0, 1, 0, 1, 1, 0]


def npz(**arrays: object) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    return sink.getvalue()


class TestArrays:
    @pytest.mark.parametrize(
        ("features", "labels", "words"),
        [
            ([[1.0, 2.0]], [1], "too few rows"),
            (np.zeros((0, 2)), [], "too few rows"),
            ([1.0, 2.0], [0, 1], "rows and columns"),
            (ROWS, LABELS[:5], r"labels have shape \[5\] for 6 rows"),
            (ROWS, [1] * 6, "all 6 labels are the same"),
            (ROWS, [0, 1, 0, 1, 0, float("nan")], "labels has 1 values that are not finite"),
            (ROWS.astype(str), LABELS, "must be numbers"),
            (np.array([[1, "a"], [2, "b"]], dtype=object), [0, 1], "mixes int, str; first at row 0"),
            (ROWS * 1e300, LABELS, "too large for 32 bits"),
        ],
    )
    def test_what_cannot_be_judged_by_is_named(self, features: object, labels: object, words: str) -> None:
        with pytest.raises(InvalidInput, match=words):
            ValidationData(features, labels)

    def test_values_that_are_not_finite_are_reported_by_column(self) -> None:
        rows = ROWS.copy()
        rows[:, 0] = np.nan
        rows[2, 1] = np.inf

        with pytest.raises(InvalidInput, match="column a: all of 6 values, column b: 1 of 6 values"):
            ValidationData(pd.DataFrame(rows, columns=["a", "b"]), LABELS)

    def test_a_label_among_the_features_is_a_leak(self) -> None:
        rows = np.column_stack([ROWS[:, 0], LABELS])

        with pytest.raises(InvalidInput, match="the label is also feature 1"):
            ValidationData(rows, LABELS)

    def test_groups_must_fit(self) -> None:
        with pytest.raises(InvalidInput, match=r"group sex has shape \[2\] for 6 rows"):
            ValidationData(ROWS, LABELS, {"sex": ["f", "m"]})
        with pytest.raises(InvalidInput, match="1 missing values"):
            ValidationData(ROWS, LABELS, {"age": [1.0, 2, 3, 4, 5, float("nan")]})

    def test_training_rows_must_have_the_same_shape(self) -> None:
        with pytest.raises(InvalidInput, match="train_features"):
            ValidationData(ROWS, LABELS, train_features=np.zeros((5, 3)))


class TestKeeping:
    def test_what_was_saved_is_loaded(self, tmp_path: Path) -> None:
        data = ValidationData(ROWS, LABELS, {"g": list("aabbcc")}, ROWS + 1, ("x", "y"))

        back = load(save(data, tmp_path), tmp_path)

        assert back.digest == data.digest
        assert back.feature_names == ("x", "y")
        assert list(back.groups["g"]) == list("aabbcc")
        assert save(back, tmp_path) == data.digest

    def test_the_digest_is_of_everything(self) -> None:
        data = ValidationData(ROWS, LABELS, {"g": list("aabbcc")})
        changed = ROWS.copy()
        changed[0, 0] = 99
        others = [
            ValidationData(changed, LABELS, {"g": list("aabbcc")}),
            ValidationData(ROWS, LABELS[::-1], {"g": list("aabbcc")}),
            ValidationData(ROWS, LABELS, {"h": list("aabbcc")}),
            ValidationData(ROWS, LABELS, {"g": list("aabbcc")}, feature_names=("x", "y")),
        ]

        assert len({data.digest, *(other.digest for other in others)}) == 5

    def test_a_changed_file_is_found(self, tmp_path: Path) -> None:
        digest = save(ValidationData(ROWS, LABELS), tmp_path)
        other = ValidationData(ROWS + 1, LABELS)
        (tmp_path / f"{digest.replace(':', '-')}.npz").write_bytes(other.to_bytes())

        with pytest.raises(IntegrityError, match="holds data of digest"):
            load(digest, tmp_path)

    def test_a_file_that_is_gone_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound):
            load("sha256:" + "0" * 64, tmp_path)


class TestArchives:
    def test_one_cut_anywhere_is_refused(self) -> None:
        content = ValidationData(np.random.default_rng(0).normal(size=(200, 3)), [0, 1] * 100).to_bytes()
        for tenth in range(10):
            with pytest.raises(InvalidInput):
                ValidationData.from_bytes(content[: len(content) * tenth // 10], where="file")

    def test_pickles_are_refused(self) -> None:
        with pytest.raises(InvalidInput, match="object arrays are not allowed"):
            read_npz(npz(features=np.array([object()], dtype=object)), where="file")

    @pytest.mark.parametrize("name", ["../../x.npy", "a/b.npy", "code.py", "..\\x.npy"])
    def test_members_that_are_no_arrays_are_refused(self, name: str) -> None:
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w") as archive:
            archive.writestr(name, b"x")

        with pytest.raises(InvalidInput, match="no array"):
            read_npz(sink.getvalue(), where="file")

    def test_a_bomb_is_refused_by_its_stated_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mlcycle_nb.validation.data.BYTES_LIMIT", 1000)

        with pytest.raises(InvalidInput, match="over 2 GiB"):
            read_npz(npz(features=np.zeros(1000)), where="file")

    def test_missing_arrays_are_named(self) -> None:
        with pytest.raises(InvalidInput, match="no array labels"):
            ValidationData.from_bytes(npz(features=ROWS), where="file")


class TestTables:
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame({"x": ROWS[:, 0], "y": ROWS[:, 1], "sex": list("fmfmfm"), "label": LABELS})

    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_a_file_is_split_into_its_parts(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"rows{suffix}"
        self.frame().to_csv(path, index=False) if suffix == ".csv" else self.frame().to_parquet(path)

        data = read_file(path, groups=["sex"])

        assert data.feature_names == ("x", "y")
        assert list(data.labels) == LABELS
        assert list(data.groups) == ["sex"]

    def test_a_missing_column_is_suggested(self) -> None:
        with pytest.raises(InvalidInput, match=r"label column is missing.*did you mean 'label'"):
            from_frame(self.frame(), label="labl")

    def test_text_among_the_features_names_its_row(self) -> None:
        with pytest.raises(InvalidInput, match="column sex is not numeric; first at row 0"):
            from_frame(self.frame(), label="label")

    def test_a_number_with_a_comma_names_its_row(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        path.write_text('x,label\n1.5,0\n"1,5",1\n2.5,0\n')

        with pytest.raises(InvalidInput, match="column x is not numeric; first at row 1"):
            read_file(path)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "empty"),
            (b"x,label\n", "header and no rows"),
            (b"x,label\n1,0\n2\n", "cannot be read"),
            (b"x,x,label\n1,2,0\n3,4,1\n", "same name"),
            (b"," * 30_000 + b"\n", "columns"),
        ],
    )
    def test_broken_csv_is_named(self, tmp_path: Path, content: bytes, words: str) -> None:
        path = tmp_path / "rows.csv"
        path.write_bytes(content)

        with pytest.raises(InvalidInput, match=words):
            read_file(path)

    def test_parquet_cut_anywhere_is_refused(self, tmp_path: Path) -> None:
        whole = tmp_path / "whole.parquet"
        self.frame().to_parquet(whole)
        content = whole.read_bytes()
        for tenth in range(10):
            part = tmp_path / "part.parquet"
            part.write_bytes(content[: len(content) * tenth // 10])
            with pytest.raises(InvalidInput):
                read_file(part)

    def test_types_that_drift_from_training_are_named(self) -> None:
        train = pd.DataFrame({"x": ["a", "b"], "y": [1.0, 2.0]})

        with pytest.raises(InvalidInput, match="column x is float64 here and object in the training rows"):
            from_frame(self.frame(), label="label", groups=["sex"], train=train)

    def test_an_unknown_kind_of_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "rows.xlsx").write_bytes(b"x")

        with pytest.raises(InvalidInput, match=r"known: \.npz, \.csv, \.parquet"):
            read_file(tmp_path / "rows.xlsx")
