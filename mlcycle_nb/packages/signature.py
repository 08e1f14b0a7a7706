"""What a model takes and gives: tensors with a name, a datatype, a shape and, where stated, a range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlcycle_nb.errors import InvalidInput, did_you_mean

NUMPY_NAMES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
"""Open Inference Protocol datatypes and the numpy dtypes that carry them."""

DATATYPES = {numpy_name: datatype for datatype, numpy_name in NUMPY_NAMES.items()}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a model's contract.

    Parameters
    ----------
    name : str
        Name in requests and in the graph.
    datatype : str
        Open Inference Protocol datatype, such as ``FP32``.
    shape : tuple of int
        First dimension is the batch, written -1.
    low, high : float, optional
        Bounds a value must keep; a request outside them is refused.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.datatype not in NUMPY_NAMES:
            raise InvalidInput(
                "unknown tensor datatype", value=self.datatype, remedy=did_you_mean(self.datatype, NUMPY_NAMES)
            )
        if not self.shape or self.shape[0] != -1 or any(size < 1 for size in self.shape[1:]):
            raise InvalidInput("a tensor shape is -1 (the batch) and then positive sizes", value=self.shape)

    @property
    def numpy_name(self) -> str:
        """The numpy dtype, by name."""
        return NUMPY_NAMES[self.datatype]

    @property
    def values_per_row(self) -> int:
        """Numbers in one row."""
        count = 1
        for size in self.shape[1:]:
            count *= size
        return count

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        form: dict[str, Any] = {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}
        if self.low is not None:
            form["low"] = self.low
        if self.high is not None:
            form["high"] = self.high
        return form

    @classmethod
    def from_json(cls, form: dict[str, Any]) -> TensorSpec:
        """Read the JSON form back."""
        return cls(form["name"], form["datatype"], tuple(form["shape"]), form.get("low"), form.get("high"))


@dataclass(frozen=True, slots=True)
class Signature:
    """All tensors of a model: what it takes, what it gives."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def output(self, name: str) -> TensorSpec | None:
        """Return the output tensor `name`, or None when the model does not give it."""
        return next((spec for spec in self.outputs if spec.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
        }

    @classmethod
    def from_json(cls, form: dict[str, Any]) -> Signature:
        """Read the JSON form back."""
        return cls(
            tuple(TensorSpec.from_json(spec) for spec in form["inputs"]),
            tuple(TensorSpec.from_json(spec) for spec in form["outputs"]),
        )
