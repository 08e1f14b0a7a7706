"""A model's contract, compiled once: what a request's tensor must be, and what an answer must be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mlcycle_nb.serving.refusals import Problem, unprocessable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlcycle_nb.packages.signature import Signature, TensorSpec

_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}


class InputContract:
    """Turns the data of one request into an array, or refuses it with its place.

    Parameters
    ----------
    spec : TensorSpec
        The model's input tensor.
    feature_names : tuple of str
        Names of the values of a row, in order.
    max_rows : int
        Rows one request may hold.
    """

    def __init__(self, spec: TensorSpec, feature_names: tuple[str, ...], max_rows: int) -> None:
        self.spec = spec
        self.name = spec.name
        self.datatype = spec.datatype
        self.feature_names = feature_names
        self.max_rows = max_rows
        self.row_shape = tuple(spec.shape[1:])
        self.row_size = spec.values_per_row
        self.dtype = np.dtype(spec.numpy_name)
        self._wire = self.dtype.newbyteorder("<")
        self._kinds = _KINDS[self.dtype.kind]
        self._low = -math.inf if spec.low is None else spec.low
        self._high = math.inf if spec.high is None else spec.high
        self._bounded = spec.low is not None or spec.high is not None

    def from_lists(self, data: Any, rows: int | None, where: str, *, booleans: bool) -> NDArray[Any]:
        """Return nested or flat lists as an array of shape (rows, ...).

        Parameters
        ----------
        data : list
            Values, flat or nested; `rows` None asks for nested ones, and counts them.
        rows : int or None
            Rows that the request announced.
        where : str
            Place of `data` in the request.
        booleans : bool
            Whether the body holds ``true`` or ``false`` at all; numpy would take them for 1 and 0.
        """
        if type(data) is not list:
            raise unprocessable("wrong_type", "data must be a list", where)
        if booleans and self.dtype.kind != "b":
            self._refuse_non_numbers(data, where)
        try:
            array = np.array(data)
        except (ValueError, OverflowError):
            raise self._why_not_regular(data, where) from None
        if array.dtype.kind not in self._kinds:
            if not array.size:
                raise unprocessable("no_rows", "there are no rows", where)
            raise self._why_not_regular(data, where)
        if rows is None:
            rows = array.shape[0]
            self.check_rows(rows, where)
        elif array.ndim == 1 and array.size == rows * self.row_size:
            return self._cast(array.reshape(rows, *self.row_shape), where)
        if array.shape != (rows, *self.row_shape):
            raise self._wrong_shape(array.shape, rows, where)
        return self._cast(array, where)

    def from_bytes(self, content: bytes | memoryview, rows: int, where: str) -> NDArray[Any]:
        """Return a binary tensor (little-endian, row major) as an array of shape (rows, ...)."""
        expected = rows * self.row_size * self.dtype.itemsize
        if len(content) != expected:
            raise unprocessable("wrong_shape", f"{len(content)} bytes for a tensor of {expected}", where)
        return np.frombuffer(content, dtype=self._wire).reshape(rows, *self.row_shape)

    def check_rows(self, rows: Any, where: str) -> None:
        """Refuse a row count that is none, zero or over the limit."""
        if type(rows) is not int or rows < 1:
            raise unprocessable("no_rows", "there must be at least one row", where)
        if rows > self.max_rows:
            raise unprocessable("too_many_rows", f"{rows} rows, at most {self.max_rows} in one request", where)

    def check_shape(self, shape: Any, where: str) -> int:
        """Return the rows of an announced shape."""
        if type(shape) is not list or not shape:
            raise unprocessable("wrong_shape", "shape must be a list of sizes", where)
        self.check_rows(shape[0], where)
        if tuple(shape[1:]) != self.row_shape or any(type(size) is not int for size in shape):
            raise self._wrong_shape(tuple(shape), shape[0], where)
        rows: int = shape[0]
        return rows

    def violation(self, array: NDArray[Any]) -> Problem | None:
        """Return what is wrong with the values of a request, or None."""
        if self.dtype.kind == "f":
            bad = ~np.isfinite(array)
            if bad.any():
                return self._value_problem(array, bad, "not_finite", f"is no finite {self.datatype} number")
        if self._bounded:
            outside = (array < self._low) | (array > self._high)
            if outside.any():
                return self._value_problem(array, outside, "out_of_range", f"is outside [{self._low}, {self._high}]")
        return None

    def sound(self, array: NDArray[Any]) -> bool:
        """Tell fast whether all values of a batch keep the contract; only a batch that does not is searched."""
        if self._bounded:
            return bool(array.min() >= self._low and array.max() <= self._high)
        # Squares of finite values may overflow; then the exact search finds nothing and the batch goes on.
        return self.dtype.kind != "f" or math.isfinite(np.vdot(array, array))

    def _value_problem(self, array: NDArray[Any], bad: NDArray[Any], reason: str, what: str) -> Problem:
        row, *place = (int(index) for index in np.argwhere(bad)[0])
        flat = int(np.ravel_multi_index(tuple(place), self.row_shape)) if place else 0
        name = f" ({self.feature_names[flat]})" if flat < len(self.feature_names) else ""
        return unprocessable(
            reason, f"{array[(row, *place)]} {what}; {int(bad.sum())} such values", f"row {row}, value {flat}{name}"
        )

    def _cast(self, array: NDArray[Any], where: str) -> NDArray[Any]:
        if array.dtype == self.dtype:
            return array
        if self.dtype.kind in "iu":
            bounds = np.iinfo(self.dtype)
            if array.min() < bounds.min or array.max() > bounds.max:
                raise unprocessable("out_of_range", f"a value does not fit {self.datatype}", where)
        # A float64 beyond float32 becomes infinite here, and is refused by `violation`.
        return array.astype(self.dtype)

    def _wrong_shape(self, shape: tuple[Any, ...], rows: int, where: str) -> Problem:
        return unprocessable(
            "wrong_shape",
            f"shape {list(shape)}, the model takes [{rows}, {', '.join(map(str, self.row_shape))}]",
            where,
        )

    def _refuse_non_numbers(self, data: Any, where: str) -> None:
        for position, value in enumerate(data):
            kind = type(value)
            if kind is list:
                self._refuse_non_numbers(value, f"{where}[{position}]")
            elif kind is not float and kind is not int:
                shown = {True: "true", False: "false", None: "null"}.get(value) if kind in (bool, type(None)) else None
                what = shown or ("a text" if kind is str else "an object")
                raise unprocessable("wrong_type", f"{what} is not a number", f"{where}[{position}]")

    def _why_not_regular(self, data: Any, where: str) -> Problem:
        try:
            self._refuse_non_numbers(data, where)
        except Problem as problem:
            return problem
        if self.dtype.kind != "f" and np.asarray(data, dtype=object).ndim == 1 and any(type(v) is float for v in data):
            return unprocessable("wrong_type", f"the model takes whole numbers ({self.datatype})", where)
        for position, row in enumerate(data):
            if type(row) is list and type(data[0]) is list and len(row) != len(data[0]):
                return unprocessable(
                    "wrong_shape", f"has {len(row)} values, the first row has {len(data[0])}", f"{where}[{position}]"
                )
        return unprocessable("wrong_type", f"cannot be read as a tensor of {self.datatype}", where)


class OutputContract:
    """Says whether a model's answers are answers: all outputs, one row a row, the right shape, finite."""

    def __init__(self, signature: Signature) -> None:
        self.specs = signature.outputs
        self._shapes = {spec.name: tuple(spec.shape[1:]) for spec in signature.outputs}

    def fault(self, outputs: dict[str, NDArray[Any]], rows: int) -> str:
        """Return what makes the whole answer unusable, or nothing."""
        for name, shape in self._shapes.items():
            array = outputs.get(name)
            if array is None:
                return f"output {name} is missing"
            if array.shape[:1] != (rows,):
                return f"output {name} has {array.shape[0] if array.ndim else 'no'} rows for {rows}"
            if array.shape[1:] != shape:
                return f"output {name} has shape {list(array.shape)}"
        return ""

    def bad_rows(self, outputs: dict[str, NDArray[Any]]) -> NDArray[np.bool_] | None:
        """Return which rows hold a value that is not finite, or None when none does."""
        bad: NDArray[np.bool_] | None = None
        for name in self._shapes:
            array = outputs[name]
            if array.dtype.kind == "f" and not math.isfinite(np.vdot(array, array)):
                rows = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
                bad = rows if bad is None else bad | rows
        return bad if bad is not None and bad.any() else None
