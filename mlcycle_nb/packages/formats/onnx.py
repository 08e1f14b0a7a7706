"""Packages of format ``onnx``: a graph and its tensors, run by ONNX Runtime; loading runs no code of the package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import EngineError, Refused
from mlcycle_nb.packages.contents import refuse_code_files
from mlcycle_nb.packages.golden import GOLDEN_NAME
from mlcycle_nb.packages.graph_checks import check_graph
from mlcycle_nb.packages.reference import REFERENCE_NAME

if TYPE_CHECKING:
    from mlcycle_nb.packages.formats import Runtime
    from mlcycle_nb.packages.golden import Arrays
    from mlcycle_nb.packages.package import Package

GRAPH_NAME = "model.onnx"
_TYPES = {
    "BOOL": "tensor(bool)",
    "UINT8": "tensor(uint8)",
    "INT8": "tensor(int8)",
    "INT16": "tensor(int16)",
    "INT32": "tensor(int32)",
    "INT64": "tensor(int64)",
    "FP16": "tensor(float16)",
    "FP32": "tensor(float)",
    "FP64": "tensor(double)",
}


class OnnxFormat:
    """Loads and checks ``model.onnx``."""

    name = "onnx"

    def check(self, package: Package) -> None:
        """Refuse files and graphs that no exporter of ours writes."""
        where = str(package.path)
        refuse_code_files(set(package.manifest.files), {GRAPH_NAME, GOLDEN_NAME, REFERENCE_NAME}, where)
        check_graph(package.read(GRAPH_NAME), where=str(package.path / GRAPH_NAME))

    def load(self, package: Package, *, threads: int, trusted_keys: Sequence[str]) -> Runtime:
        """Return a session over the checked bytes; `trusted_keys` is not needed, as nothing here is code."""
        where = str(package.path / GRAPH_NAME)
        refuse_code_files(set(package.manifest.files), {GRAPH_NAME, GOLDEN_NAME, REFERENCE_NAME}, str(package.path))
        graph = package.read(GRAPH_NAME)
        check_graph(graph, where=where)
        runtime = OnnxRuntime(graph, threads=threads, where=where)
        runtime.check_signature(package, where)
        return runtime


class OnnxRuntime:
    """One ONNX Runtime session on the CPU."""

    thread_bound = False

    def __init__(self, graph: bytes, *, threads: int = 1, where: str = "") -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Idle replicas share the machine with their neighbours: a waiting thread must not spin.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as failure:  # onnxruntime raises a private tree that derives from Exception alone
            raise Refused(f"ONNX Runtime cannot load the graph: {_first_line(failure)}", where=where) from failure
        self._outputs = [output.name for output in self._session.get_outputs()]

    def predict(self, inputs: Arrays) -> Arrays:
        """Return the graph's outputs for a batch."""
        try:
            return dict(zip(self._outputs, self._session.run(None, inputs), strict=True))
        except Exception as failure:  # as above
            raise EngineError(f"ONNX Runtime failed: {_first_line(failure)}") from failure

    def check_signature(self, package: Package, where: str) -> None:
        """Refuse a graph whose tensors are not those of the manifest."""
        for side, specs, tensors in (
            ("input", package.signature.inputs, self._session.get_inputs()),
            ("output", package.signature.outputs, self._session.get_outputs()),
        ):
            declared = {spec.name: _TYPES.get(spec.datatype, spec.datatype) for spec in specs}
            found = {tensor.name: tensor.type for tensor in tensors}
            for name in sorted(declared.keys() | found.keys()):
                if declared.get(name) != found.get(name):
                    raise Refused(
                        f"{side} {name}: the signature says {declared.get(name, 'nothing')}, "
                        f"the graph says {found.get(name, 'nothing')}",
                        where=where,
                    )


def _first_line(failure: Exception) -> str:
    return str(failure).splitlines()[0][:200] if str(failure) else type(failure).__name__


PLUGIN = OnnxFormat()
