"""Open Inference Protocol v2: JSON tensors and the binary tensor extension."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from mlcycle_nb.serving.refusals import malformed, unprocessable
from mlcycle_nb.serving.strict_json import loads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlcycle_nb.packages.package import Package
    from mlcycle_nb.serving.batching import Batch
    from mlcycle_nb.serving.contract import InputContract

_REQUEST_KEYS = frozenset({"id", "inputs", "outputs", "parameters"})
_TENSOR_KEYS = frozenset({"name", "shape", "datatype", "data", "parameters"})
_OUTPUT_KEYS = frozenset({"name", "parameters"})
ID_LIMIT = 200


class InferRequest:
    """What a request asked for, beside its array."""

    __slots__ = ("array", "id", "outputs")

    def __init__(self, array: NDArray[Any], id: str | None, outputs: tuple[tuple[str, bool], ...] | None) -> None:
        self.array = array
        self.id = id
        self.outputs = outputs


class OpenInference:
    """Reads requests and writes answers for one package.

    Parameters
    ----------
    package : Package
        The model served.
    contract : InputContract
        Its input tensor.
    model, version : str
        Names in answers.
    """

    def __init__(self, package: Package, contract: InputContract, model: str, version: str) -> None:
        self._contract = contract
        self._names = tuple(spec.name for spec in package.signature.outputs)
        self._specs = {spec.name: spec for spec in package.signature.outputs}
        self._prefix = b'{"model_name":' + orjson.dumps(model) + b',"model_version":' + orjson.dumps(version)
        self._heads = {
            spec.name: b'{"name":'
            + orjson.dumps(spec.name)
            + b',"datatype":"'
            + spec.datatype.encode()
            + b'","shape":['
            for spec in package.signature.outputs
        }
        self._tails = {
            spec.name: b"".join(b",%d" % size for size in spec.shape[1:]) + b"]" for spec in package.signature.outputs
        }
        # Almost every answer is one row as JSON without an id: one formatting instead of a dozen joins.
        one_row = [
            self._heads[name].replace(b"%", b"%%") + b"1" + self._tails[name] + b',"data":[%b]}' for name in self._names
        ]
        self._one_row = self._prefix.replace(b"%", b"%%") + b',"outputs":[' + b",".join(one_row) + b"]}"
        takes = {"name": contract.name, "datatype": contract.datatype, "shape": list(contract.spec.shape)}
        gives = [{"name": s.name, "datatype": s.datatype, "shape": list(s.shape)} for s in package.signature.outputs]
        self.model_metadata = orjson.dumps(
            {
                "name": model,
                "versions": [version],
                "platform": f"mlcycle_{package.format}",
                "inputs": [takes],
                "outputs": gives,
                "parameters": {
                    "digest": package.digest,
                    "task": package.task,
                    "feature_names": list(package.feature_names),
                    "class_names": list(package.class_names),
                },
            }
        )

    def read(self, body: bytes, json_length: bytes | None) -> InferRequest:
        """Return the request of a body; `json_length` is the binary extension's header."""
        binary: memoryview | None = None
        if json_length is not None:
            if not json_length.isdigit() or len(json_length) > 12 or int(json_length) > len(body):
                raise malformed("bad_binary", "Inference-Header-Content-Length does not fit the body")
            length = int(json_length)
            binary, body = memoryview(body)[length:], body[:length]
        document = loads(body)
        if type(document) is not dict:
            raise malformed("bad_request", "the body must be an object with inputs", "$")
        if not document.keys() <= _REQUEST_KEYS:
            raise _unknown(document, _REQUEST_KEYS, "$")
        inputs = document.get("inputs")
        if type(inputs) is not list or len(inputs) != 1 or type(inputs[0]) is not dict:
            raise unprocessable(
                "wrong_inputs", f"inputs must be a list of one tensor, {self._contract.name!r}", "$.inputs"
            )
        array = self._tensor(inputs[0], binary, body)
        request_id = document.get("id")
        if request_id is not None and (type(request_id) is not str or len(request_id) > ID_LIMIT):
            raise unprocessable("wrong_type", f"id must be a text of at most {ID_LIMIT} characters", "$.id")
        return InferRequest(array, request_id, self._wanted(document))

    def _tensor(self, tensor: dict[str, Any], binary: memoryview | None, body: bytes) -> NDArray[Any]:
        contract, where = self._contract, "$.inputs[0]"
        if not tensor.keys() <= _TENSOR_KEYS:
            raise _unknown(tensor, _TENSOR_KEYS, where)
        if tensor.get("name") != contract.name:
            raise unprocessable("wrong_inputs", f"the model takes one input, {contract.name!r}", f"{where}.name")
        if tensor.get("datatype") != contract.datatype:
            raise unprocessable("wrong_datatype", f"the model takes {contract.datatype}", f"{where}.datatype")
        rows = contract.check_shape(tensor.get("shape"), f"{where}.shape")
        parameters = _parameters(tensor, where)
        size = parameters.get("binary_data_size")
        if size is None:
            if binary is not None and len(binary):
                raise malformed("bad_binary", f"{len(binary)} bytes after the JSON belong to no tensor")
            booleans = b"true" in body or b"false" in body
            return contract.from_lists(tensor.get("data"), rows, f"{where}.data", booleans=booleans)
        if binary is None or "data" in tensor:
            raise malformed("bad_binary", "binary_data_size without a binary part, or beside data", where)
        if type(size) is not int or size != len(binary):
            raise malformed(
                "bad_binary", f"binary_data_size is not the {len(binary)} bytes that follow the JSON", where
            )
        return contract.from_bytes(binary, rows, where)

    def _wanted(self, document: dict[str, Any]) -> tuple[tuple[str, bool], ...] | None:
        """Return the outputs asked for, each with whether it goes as binary; None for all as JSON."""
        parameters = document.get("parameters")
        outputs = document.get("outputs")
        if parameters is None and outputs is None:
            return None
        all_binary = _flag(_parameters(document, "$"), "binary_data_output", "$.parameters")
        if outputs is None:
            return tuple((name, all_binary) for name in self._names) if all_binary else None
        if type(outputs) is not list:
            raise unprocessable("wrong_type", "outputs must be a list", "$.outputs")
        wanted = []
        for position, output in enumerate(outputs):
            where = f"$.outputs[{position}]"
            if type(output) is not dict or not output.keys() <= _OUTPUT_KEYS:
                raise unprocessable("wrong_type", "an output is an object with a name", where)
            name = output.get("name")
            if type(name) is not str or name not in self._specs:
                raise unprocessable("wrong_outputs", f"the model gives {', '.join(self._names)}", f"{where}.name")
            own = _flag(_parameters(output, where), "binary_data", where, default=all_binary)
            wanted.append((name, own))
        return tuple(wanted) if wanted else None

    def write(self, request: InferRequest, batch: Batch, first: int) -> tuple[bytes, int | None]:
        """Return the body and, when tensors follow it as binary, the length of its JSON part."""
        rows = len(request.array)
        if rows == 1 and request.id is None and request.outputs is None:
            return self._one_row % tuple([batch.rendered(name)[first] for name in self._names]), None
        parts = [self._prefix]
        if request.id is not None:
            parts.append(b',"id":' + orjson.dumps(request.id))
        parts.append(b',"outputs":[')
        count = b"%d" % rows
        if request.outputs is None:
            for position, name in enumerate(self._names):
                if position:
                    parts.append(b",")
                data = batch.rendered(name)
                text = b",".join(data[first : first + rows])
                parts += (self._heads[name], count, self._tails[name], b',"data":[', text, b"]}")
            parts.append(b"]}")
            return b"".join(parts), None
        return self._write_chosen(request, batch, first, parts)

    def _write_chosen(
        self, request: InferRequest, batch: Batch, first: int, parts: list[bytes]
    ) -> tuple[bytes, int | None]:
        rows = len(request.array)
        tensors = []
        for position, (name, as_binary) in enumerate(request.outputs or ()):
            if position:
                parts.append(b",")
            parts += (self._heads[name], b"%d" % rows, self._tails[name])
            if as_binary:
                tensor = batch.outputs[name][first : first + rows].tobytes()
                tensors.append(tensor)
                parts.append(b',"parameters":{"binary_data_size":%d}}' % len(tensor))
            else:
                parts += (b',"data":[', b",".join(batch.rendered(name)[first : first + rows]), b"]}")
        parts.append(b"]}")
        head = b"".join(parts)
        return (head + b"".join(tensors), len(head)) if tensors else (head, None)


def _parameters(holder: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise unprocessable("wrong_type", "parameters must be an object", f"{where}.parameters")
    return parameters


def _flag(parameters: dict[str, Any], name: str, where: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise unprocessable("wrong_type", f"{name} must be true or false", where)
    return value


def _unknown(holder: dict[str, Any], known: frozenset[str], where: str) -> Exception:
    name = sorted(holder.keys() - known)[0]
    return unprocessable("unknown_field", f"unknown field {name[:80]!r}; known: {', '.join(sorted(known))}", where)
