"""ONNX's protobuf messages without the onnx package: a replica needs the messages only, and not 6 MB more."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FLOAT, FLOAT16, DOUBLE, BFLOAT16 = 1, 10, 11, 16
FLOATING = frozenset({FLOAT, FLOAT16, DOUBLE, BFLOAT16})


@cache
def model_class() -> Any:
    """Return the message class ``ModelProto``."""
    if "onnx" not in sys.modules:
        package = importlib.util.find_spec("onnx")
        for folder in (package.submodule_search_locations or ()) if package else ():
            generated = Path(folder) / "onnx_ml_pb2.py"
            if generated.is_file():
                spec = importlib.util.spec_from_file_location("mlcycle_nb_onnx_ml_pb2", generated)
                assert spec is not None
                assert spec.loader is not None
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                return module.ModelProto
    import onnx

    return onnx.ModelProto


def floats_of(tensor: Any) -> NDArray[np.floating[Any]]:
    """Return a floating tensor as float32 or float64; raise ValueError when its values do not fill its shape."""
    import numpy as np

    shape = tuple(tensor.dims)
    if any(size < 0 for size in shape):
        raise ValueError("a dimension is negative")
    kind, raw = tensor.data_type, tensor.raw_data
    array: NDArray[Any]
    if kind == FLOAT:
        array = np.frombuffer(raw, "<f4") if raw else np.asarray(tensor.float_data, np.float32)
    elif kind == DOUBLE:
        array = np.frombuffer(raw, "<f8") if raw else np.asarray(tensor.double_data, np.float64)
    else:
        bits = np.frombuffer(raw, "<u2") if raw else np.asarray(tensor.int32_data, np.uint16)
        array = bits.view(np.float16).astype(np.float32) if kind == FLOAT16 else _from_bfloat16(bits)
    return array.reshape(shape)


def _from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    import numpy as np

    return (bits.astype(np.uint32) << 16).view(np.float32)
