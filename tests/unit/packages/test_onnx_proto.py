"""Reading ONNX messages without the onnx package gives what the package gives."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlcycle_nb.packages.onnx_proto import BFLOAT16, DOUBLE, FLOAT, FLOAT16, floats_of, model_class

VALUES = [1.5, -2.0, 0.0, 3.25, 1e-3, 100.0]


@pytest.mark.parametrize("kind", [FLOAT, DOUBLE, FLOAT16, BFLOAT16])
@pytest.mark.parametrize("raw", [False, True])
def test_floats(kind: int, raw: bool) -> None:
    """All floating types, in both places a tensor may keep its values."""
    tensor = helper.make_tensor("t", kind, [2, 3], VALUES)
    if raw:
        packed: Any = numpy_helper.to_array(tensor)
        tensor = TensorProto(name="t", data_type=kind, dims=[2, 3], raw_data=packed.tobytes())
    wanted = np.asarray(numpy_helper.to_array(tensor), dtype=np.float64)

    np.testing.assert_array_equal(floats_of(tensor).astype(np.float64), wanted)


@pytest.mark.parametrize("dims", [[7], [-1, 6], [1 << 40, 1]])
def test_shape_that_lies(dims: list[int]) -> None:
    """Values that do not fill the shape are an error, and nothing of the claimed size is made."""
    with pytest.raises(ValueError, match=r"reshape|negative"):
        floats_of(TensorProto(data_type=FLOAT, dims=dims, float_data=VALUES))


@pytest.mark.parametrize("first", ["ours", "onnx"])
def test_both_in_one_process(first: str) -> None:
    """Our way and the package's live together, whichever comes first."""
    ours = "from mlcycle_nb.packages.onnx_proto import model_class; M = model_class()"
    steps = [ours, "import onnx"] if first == "ours" else ["import onnx", ours]
    code = "\n".join(
        [*steps, "m = M(); m.ir_version = 9; n = onnx.ModelProto(); n.ParseFromString(m.SerializeToString())",
         "assert n.ir_version == 9"]
    )  # fmt: skip

    subprocess.run([sys.executable, "-c", code], check=True)


def test_reads_a_model() -> None:
    """The class reads what onnx writes."""
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", [], [])
    model = model_class()()
    model.ParseFromString(helper.make_model(graph).SerializeToString())

    assert model.graph.node[0].op_type == "Identity"
