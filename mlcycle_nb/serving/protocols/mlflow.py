"""MLflow's scoring protocol: ``POST /invocations`` with inputs, instances, dataframe_split or dataframe_records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlcycle_nb.serving.refusals import malformed, unprocessable
from mlcycle_nb.serving.strict_json import loads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlcycle_nb.packages.package import Package
    from mlcycle_nb.serving.batching import Batch
    from mlcycle_nb.serving.contract import InputContract

_FORMS = ("inputs", "instances", "dataframe_split", "dataframe_records")
_SPLIT_KEYS = frozenset({"columns", "data", "index"})


class ScoringRequest:
    """The array of a request and the output it asked for."""

    __slots__ = ("array", "output")

    def __init__(self, array: NDArray[Any], output: str) -> None:
        self.array = array
        self.output = output


class MlflowScoring:
    """Reads requests and writes answers for one package.

    Parameters
    ----------
    package : Package
        The model served.
    contract : InputContract
        Its input tensor.
    """

    def __init__(self, package: Package, contract: InputContract) -> None:
        self._contract = contract
        self._names = contract.feature_names
        self._order = {name: position for position, name in enumerate(contract.feature_names)}
        self._outputs = tuple(spec.name for spec in package.signature.outputs)

    def read(self, body: bytes) -> ScoringRequest:
        """Return the request of a body."""
        document = loads(body)
        if type(document) is not dict:
            raise malformed("bad_request", f"the body must be an object with one of {', '.join(_FORMS)}", "$")
        forms = [key for key in document if key in _FORMS]
        unknown = sorted(document.keys() - {*_FORMS, "params"})
        if unknown:
            raise unprocessable("unknown_field", f"unknown field {unknown[0][:80]!r}", "$")
        if len(forms) != 1:
            raise unprocessable("wrong_inputs", f"give exactly one of {', '.join(_FORMS)}", "$")
        form, booleans = forms[0], b"true" in body or b"false" in body
        value, where = document[form], f"$.{form}"
        if form == "dataframe_split":
            value, where = self._split(value)
        elif form == "dataframe_records" or (type(value) is list and value and type(value[0]) is dict):
            value = self._records(value, where)
        elif type(value) is dict:
            value = self._columns(value, where)
        array = self._contract.from_lists(value, None, where, booleans=booleans)
        return ScoringRequest(array, self._output(document.get("params")))

    def write(self, request: ScoringRequest, batch: Batch, first: int) -> bytes:
        """Return ``{"predictions": [...]}``: one item a row."""
        rows = batch.rendered(request.output)[first : first + len(request.array)]
        if batch.outputs[request.output].ndim == 1:
            return b'{"predictions":[' + b",".join(rows) + b"]}"
        return b'{"predictions":[[' + b"],[".join(rows) + b"]]}"

    def _output(self, params: Any) -> str:
        if params is None:
            return self._outputs[0]
        if type(params) is not dict or not params.keys() <= {"output"}:
            raise unprocessable("unknown_field", "params may hold output only", "$.params")
        output = params.get("output", self._outputs[0])
        if output not in self._outputs:
            raise unprocessable("wrong_outputs", f"the model gives {', '.join(self._outputs)}", "$.params.output")
        return str(output)

    def _split(self, value: Any) -> tuple[Any, str]:
        where = "$.dataframe_split"
        if type(value) is not dict or not value.keys() <= _SPLIT_KEYS or "data" not in value:
            raise unprocessable("wrong_type", "dataframe_split is an object with columns and data", where)
        columns, data = value.get("columns"), value["data"]
        if columns is None:
            return data, f"{where}.data"
        if type(columns) is not list:
            raise unprocessable("wrong_type", "columns must be a list", f"{where}.columns")
        # A frame made without names has its columns numbered: they go by position.
        if columns == list(range(len(self._names))) or columns == list(self._names):
            return data, f"{where}.data"
        order = self._positions(columns, f"{where}.columns")
        if type(data) is not list:
            raise unprocessable("wrong_type", "data must be a list of rows", f"{where}.data")
        reordered = []
        for position, row in enumerate(data):
            if type(row) is not list or len(row) != len(columns):
                raise unprocessable(
                    "wrong_shape", f"must be a row of {len(columns)} values", f"{where}.data[{position}]"
                )
            reordered.append([row[index] for index in order])
        return reordered, f"{where}.data"

    def _records(self, value: Any, where: str) -> list[list[Any]]:
        if type(value) is not list:
            raise unprocessable("wrong_type", "must be a list of records", where)
        rows = []
        for position, record in enumerate(value):
            if type(record) is not dict:
                raise unprocessable("wrong_type", "must be an object", f"{where}[{position}]")
            if record.keys() != self._order.keys():
                self._positions(list(record), f"{where}[{position}]")
            rows.append([record[name] for name in self._names])
        return rows

    def _columns(self, value: dict[str, Any], where: str) -> Any:
        if value.keys() == {self._contract.name}:
            return value[self._contract.name]
        self._positions(list(value), where)
        columns = [value[name] for name in self._names]
        if any(type(column) is not list or len(column) != len(columns[0]) for column in columns):
            raise unprocessable("wrong_shape", "columns must be lists of one length", where)
        return [list(row) for row in zip(*columns, strict=True)]

    def _positions(self, given: list[Any], where: str) -> list[int]:
        """Return where each feature is among `given`; a missing, unknown or double one is named."""
        positions = {name: position for position, name in enumerate(given) if isinstance(name, str)}
        missing = [name for name in self._names if name not in positions]
        if missing:
            raise unprocessable("missing_feature", f"feature {missing[0]!r} is missing ({len(missing)} in all)", where)
        extra = [name for name in given if name not in self._order]
        if extra:
            raise unprocessable("unknown_feature", f"{str(extra[0])[:80]!r} is no feature ({len(extra)} in all)", where)
        if len(given) != len(self._names):
            raise unprocessable("unknown_feature", "a feature is given twice", where)
        return [positions[name] for name in self._names]
