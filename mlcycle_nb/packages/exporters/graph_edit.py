"""Edits of exported graphs: names of outputs, nothing that tells paths of the machine it was made on."""

from __future__ import annotations

from typing import Any

from mlcycle_nb.packages.exporters import CannotExport

IR_VERSION = 10


def finish(model: Any, *, rename: dict[str, str]) -> bytes:
    """Inline functions, rename outputs, strip comments, check, and return the bytes."""
    import onnx
    import onnx.inliner

    if len(model.functions):
        model = onnx.inliner.inline_local_functions(model)
    for old, new in rename.items():
        rename_output(model.graph, old, new)
    _strip(model.graph)
    model.doc_string = ""
    del model.metadata_props[:]
    model.producer_name = "mlcycle_nb"
    model.producer_version = ""
    # Older runtimes refuse a higher number than they know, whatever the graph uses.
    model.ir_version = min(model.ir_version, IR_VERSION)
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used or entry.domain == ""]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    try:
        onnx.checker.check_model(model, full_check=True)
        content: bytes = model.SerializeToString(deterministic=True)
    except Exception as failure:  # checker and protobuf have private error trees
        raise CannotExport(f"the exported graph is not valid: {str(failure).splitlines()[0][:200]}") from failure
    return content


def rename_output(graph: Any, old: str, new: str) -> None:
    """Give a graph output another name, everywhere it is used."""
    if old == new:
        return
    for node in graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                if name == old:
                    names[position] = new
    for value in (*graph.output, *graph.value_info):
        if value.name == old:
            value.name = new


def drop_output(graph: Any, name: str) -> None:
    """Remove a graph output; its node stays where others use it, and the runtime prunes it where none do."""
    kept = [value for value in graph.output if value.name != name]
    del graph.output[:]
    graph.output.extend(kept)


def _strip(graph: Any) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    # Node metadata holds stack traces of the exporting machine; intermediate shapes only make the file larger.
    del graph.value_info[:]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.doc_string = ""
            if attribute.HasField("g"):
                _strip(attribute.g)
            for inner in attribute.graphs:
                _strip(inner)
