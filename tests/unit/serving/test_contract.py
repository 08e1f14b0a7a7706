"""Input and output contracts: what is a row, what is an answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlcycle_nb.packages.signature import Signature, TensorSpec
from mlcycle_nb.serving.contract import InputContract, OutputContract
from mlcycle_nb.serving.refusals import Problem


def contract(datatype: str = "FP32", shape: tuple[int, ...] = (-1, 3), **bounds: float) -> InputContract:
    return InputContract(TensorSpec("input", datatype, shape, **bounds), ("a", "b", "c"), 10)


class TestInput:
    """Lists and bytes become arrays of the signature, or a problem with its place."""

    @pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6.5], [[1, 2, 3], [4, 5, 6.5]]])
    def test_flat_and_nested(self, data: list[Any]) -> None:
        """Both forms of the protocol give the same array."""
        array = contract().from_lists(data, 2, "data", booleans=False)

        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, [[1, 2, 3], [4, 5, 6.5]])

    def test_images(self) -> None:
        """Rows may have more than one dimension."""
        array = contract(shape=(-1, 2, 2)).from_lists([[[1, 2], [3, 4]]], None, "data", booleans=False)

        assert array.shape == (1, 2, 2)

    def test_whole_numbers(self) -> None:
        """Integer models take integers in range only."""
        integers = contract("INT8")

        assert integers.from_lists([1, -128, 127], 1, "data", booleans=False).dtype == np.int8
        for data, reason in (([1, 2, 128], "out_of_range"), ([1, 2, 2.5], "wrong_type"), ([1, 2, 2**70], "wrong_type")):
            with pytest.raises(Problem) as caught:
                integers.from_lists(data, 1, "data", booleans=False)
            assert caught.value.reason == reason

    def test_range(self) -> None:
        """Bounds of the signature are kept, and the feature is named."""
        bounded = contract(low=0.0, high=16.0)
        inside, outside = np.asarray([[0, 16, 3]], np.float32), np.asarray([[0, 17, 3]], np.float32)

        assert bounded.sound(inside)
        assert not bounded.sound(outside)
        assert bounded.violation(inside) is None
        problem = bounded.violation(outside)
        assert problem is not None
        assert problem.where == "row 0, value 1 (b)"

    def test_bounded_nan(self) -> None:
        """NaN is in no range."""
        assert not contract(low=0.0).sound(np.asarray([[np.nan, 1, 1]], np.float32))

    def test_huge_values_are_not_taken_for_infinite(self) -> None:
        """The fast test may be fooled by values whose squares overflow; the exact one is not."""
        huge = np.full((1, 3), 1e38, np.float32)

        assert contract().violation(huge) is None


class TestOutput:
    """Outputs: present, a row a row, of their shape, finite."""

    signature = Signature((), (TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 2))))

    def good(self) -> dict[str, Any]:
        return {"label": np.zeros(4, np.int64), "probabilities": np.full((4, 2), 0.5, np.float32)}

    def test_good(self) -> None:
        """A good answer has no fault."""
        checks = OutputContract(self.signature)

        assert checks.fault(self.good(), 4) == ""
        assert checks.bad_rows(self.good()) is None

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("label", None, "missing"),
            ("label", np.zeros(3, np.int64), "3 rows for 4"),
            ("label", np.asarray(0), "no rows"),
            ("probabilities", np.zeros((4, 3), np.float32), "shape"),
        ],
    )
    def test_faults(self, name: str, value: Any, words: str) -> None:
        """Each fault is named."""
        outputs = self.good() | {name: value}
        if value is None:
            del outputs[name]

        assert words in OutputContract(self.signature).fault(outputs, 4)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_only_the_bad_rows(self, value: float) -> None:
        """A value that is not finite spoils its own row."""
        outputs = self.good()
        outputs["probabilities"][2, 1] = value
        bad = OutputContract(self.signature).bad_rows(outputs)

        assert bad is not None
        assert bad.tolist() == [False, False, True, False]
