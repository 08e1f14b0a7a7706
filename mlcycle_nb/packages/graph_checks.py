"""What an ONNX graph may hold: standard operators, tensors of its own, finite weights, a bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import Refused
from mlcycle_nb.packages.onnx_proto import FLOATING, floats_of, model_class

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NODE_LIMIT = 50_000
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
UNBOUNDED = frozenset({"Loop"})
_WEIGHT_INPUTS = {
    "MatMul": (0, 1), "Gemm": (0, 1), "Conv": (1,), "ConvTranspose": (1,), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2),
}  # fmt: skip
_WEIGHT_ATTRIBUTES = frozenset({"coefficients"})
_NUMBER_ATTRIBUTES = frozenset(
    {
        "coefficients", "intercepts", "target_weights", "class_weights", "nodes_values", "offset", "scale",
        "support_vectors", "rho", "base_values", "imputed_value_floats",
    }
)  # fmt: skip


def check_graph(content: bytes, *, where: str) -> None:
    """Raise Refused, with what and how many, unless the graph is one that is safe and sensible to load."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model: Any = model_class()()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise Refused("is not an ONNX graph", where=where, remedy="build the package again") from None
    if not model.ir_version or not model.graph.output:
        raise Refused("is not an ONNX graph: it has no outputs", where=where)
    if len(model.functions):
        raise Refused(
            f"defines {len(model.functions)} functions of its own", value=model.functions[0].name, where=where
        )
    foreign = sorted({entry.domain for entry in model.opset_import} - DOMAINS)
    nodes, tensors = _walk(model.graph, where)
    foreign_nodes = [node for node in nodes if node.domain not in DOMAINS]
    if foreign_nodes:
        first = f"{foreign_nodes[0].domain}::{foreign_nodes[0].op_type}"
        raise Refused(
            f"{len(foreign_nodes)} nodes use custom operators, first {first}",
            where=where,
            remedy="export the model with standard operators only",
        )
    if foreign:
        raise Refused(f"imports the custom operator domain {foreign[0]!r}", where=where)
    unbounded = [node for node in nodes if node.op_type in UNBOUNDED]
    if unbounded:
        raise Refused(f"{len(unbounded)} nodes loop without a bound, first {unbounded[0].op_type}", where=where)
    _check_external(tensors, where)
    _check_weights(nodes, tensors, where)


def _walk(graph: Any, where: str) -> tuple[list[Any], list[tuple[str, Any]]]:
    """Return all nodes and all named tensors of a graph and the graphs inside it."""
    nodes: list[Any] = []
    tensors: list[tuple[str, Any]] = []
    waiting = [graph]
    while waiting:
        current = waiting.pop()
        if len(nodes) + len(current.node) > NODE_LIMIT:
            raise Refused(f"has over {NODE_LIMIT} nodes ({len(nodes) + len(current.node)} counted)", where=where)
        tensors.extend((tensor.name, tensor) for tensor in current.initializer)
        for sparse in current.sparse_initializer:
            tensors.append((sparse.values.name, sparse.values))
            tensors.append((f"{sparse.values.name} (indices)", sparse.indices))
        for node in current.node:
            nodes.append(node)
            for attribute in node.attribute:
                waiting.extend(_graphs(attribute))
                name = (
                    node.output[0]
                    if node.op_type == "Constant" and len(node.output)
                    else f"{node.name}.{attribute.name}"
                )
                tensors.extend((name, tensor) for tensor in _tensors(attribute))
    return nodes, tensors


def _graphs(attribute: Any) -> Iterator[Any]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _tensors(attribute: Any) -> Iterator[Any]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    if attribute.HasField("sparse_tensor"):
        yield attribute.sparse_tensor.values
        yield attribute.sparse_tensor.indices
    for sparse in attribute.sparse_tensors:
        yield sparse.values
        yield sparse.indices


def _check_external(tensors: list[tuple[str, Any]], where: str) -> None:
    external = [(name, t) for name, t in tensors if t.data_location == 1 or len(t.external_data)]
    if external:
        name, tensor = external[0]
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        raise Refused(
            f"{len(external)} tensors keep their data in another file, first {name}", value=location, where=where
        )


def _check_weights(nodes: list[Any], tensors: list[tuple[str, Any]], where: str) -> None:
    import numpy as np

    operands = {node.input[i] for node in nodes for i in _WEIGHT_INPUTS.get(node.op_type, ()) if i < len(node.input)}
    bad: list[str] = []
    zero: list[str] = []
    for name, tensor in tensors:
        if tensor.data_type not in FLOATING:
            continue
        array = _to_array(tensor, name, where)
        if not _finite_or_mask(array, name in operands):
            bad.append(name)
        elif name in operands and array.ndim >= 2 and array.size and not array.any():
            zero.append(name)
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name not in _NUMBER_ATTRIBUTES or not len(attribute.floats):
                continue
            values = np.asarray(attribute.floats, dtype=np.float32)
            if not np.isfinite(values).all():
                bad.append(f"{node.op_type}.{attribute.name}")
            elif attribute.name in _WEIGHT_ATTRIBUTES and not values.any():
                zero.append(f"{node.op_type}.{attribute.name}")
    if bad:
        raise Refused(f"{len(bad)} weight tensors hold NaN or infinity, first {bad[0]}", where=where)
    if zero:
        raise Refused(f"{len(zero)} weight tensors are all zero, first {zero[0]}", where=where)


def _to_array(tensor: Any, name: str, where: str) -> NDArray[np.floating[Any]]:
    try:
        return floats_of(tensor)
    except (ValueError, TypeError) as failure:
        raise Refused(
            f"tensor {name} holds other bytes than its shape {list(tensor.dims)} says", where=where
        ) from failure


def _finite_or_mask(array: NDArray[np.floating[Any]], weight: bool) -> bool:
    import numpy as np

    values = array.astype(np.float32, copy=False)
    if np.isfinite(values).all():
        return True
    if weight or np.isnan(values).any():
        return False
    # Attention masks are zeros and -inf; a clip bound may be one infinity.
    return array.size == 1 or bool(((values == 0) | np.isneginf(values)).all())
