"""Asks a deployed model for predictions, as a consumer with a key does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import EngineError, InvalidInput, NotFound, Refused

if TYPE_CHECKING:
    import httpx
    import numpy as np
    from numpy.typing import NDArray

TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The answer to one request.

    Parameters
    ----------
    labels : ndarray of int, shape (n_rows,), optional
        Class indices; None for a regressor.
    probabilities : ndarray, shape (n_rows, n_classes), optional
        Class probabilities, where the model gives them.
    values : ndarray, shape (n_rows,), optional
        Values of a regressor.
    version : int
        The model version that answered.
    prediction_id : str
        Name of the request in the prediction log.
    """

    labels: NDArray[np.int64] | None
    probabilities: NDArray[np.floating[Any]] | None
    values: NDArray[np.floating[Any]] | None
    version: int
    prediction_id: str
    rows: int

    @property
    def prediction_ids(self) -> tuple[str, ...]:
        """One name a row, ``<prediction id>/<row>``; a label names the id and the row apart."""
        return tuple(f"{self.prediction_id}/{row}" for row in range(self.rows))


class ServingClient:
    """A consumer's connection to one model; it retries nothing by itself, the gateway does.

    Parameters
    ----------
    base_url : str
        Address of the gateway.
    key : str
        The consumer's API key; empty for a replica asked directly.
    model : str
        Model name.
    version : int, optional
        Ask one version instead of the one the traffic split chooses.
    socket : Path, optional
        Unix socket to connect to instead of the address.
    timeout_seconds : float
        Longest wait for one answer.
    """

    def __init__(
        self,
        base_url: str,
        key: str,
        model: str,
        *,
        version: int | None = None,
        socket: Path | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        import httpx

        transport = None if socket is None else httpx.HTTPTransport(uds=str(socket))
        headers = {"authorization": f"Bearer {key}"} if key else {}
        # A gateway on loopback is never behind a proxy, whatever the environment says.
        self._http: httpx.Client = httpx.Client(
            base_url=base_url, headers=headers, timeout=timeout_seconds, transport=transport, trust_env=False
        )
        self._datatype: str | None = None
        self.base_url = base_url
        self.model = model
        self.version = version
        self.key = key
        self._path = f"/v2/models/{model}" + ("" if version is None else f"/versions/{version}")

    def predict(self, rows: Any, *, headers: dict[str, str] | None = None) -> Prediction:
        """Return the model's answers for rows.

        Parameters
        ----------
        rows : array_like, shape (n_rows, n_features, ...)
            One row is wanted as ``[row]``.
        headers : dict, optional
            More request headers, such as a tester's routing header.

        Raises
        ------
        InvalidInput
            If rows are no finite numbers, or the model's contract refuses them.
        Refused
            If the key is missing or wrong, or the model is gone.
        NotFound
            If there is no such model.
        EngineError
            If the gateway or the replica failed.
        """
        import numpy as np
        import orjson

        if hasattr(rows, "to_numpy"):
            rows = rows.to_numpy()
        try:
            array = np.asarray(rows)
        except ValueError:
            raise InvalidInput("rows must all have the same length") from None
        if array.dtype.kind not in "fiub" or array.ndim < 2 or not len(array):
            raise InvalidInput(
                "rows must be numbers, one list a row", value=f"{array.dtype} of shape {list(array.shape)}",
                remedy="a single row is [row]",
            )  # fmt: skip
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise InvalidInput(f"row {row} holds a value that is not finite")
        integers = array.dtype.kind == "i" and self._input_datatype() == "INT64"
        tensor = {
            "name": "input",
            "datatype": "INT64" if integers else "FP32",
            "shape": list(array.shape),
            "data": np.ascontiguousarray(array.astype(np.int64 if integers else np.float32)).ravel(),
        }
        body = orjson.dumps({"inputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY)
        answer = self._ask("POST", f"{self._path}/infer", body, headers)
        return _prediction(answer, len(array))

    def metadata(self) -> dict[str, Any]:
        """Return the model's metadata: tensors, feature and class names, digest."""
        answer: dict[str, Any] = self._ask("GET", self._path, None, None).json()
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> ServingClient:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, stack: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def _input_datatype(self) -> str:
        if self._datatype is None:
            self._datatype = str(self.metadata()["inputs"][0]["datatype"])
        return self._datatype

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str] | None) -> httpx.Response:
        import httpx

        sent = {"content-type": "application/json", **(headers or {})} if body is not None else headers
        try:
            answer = self._http.request(method, path, content=body, headers=sent)
        except httpx.TimeoutException:
            raise EngineError("no answer in time", where=f"{self.base_url}{path}") from None
        except httpx.HTTPError as failure:
            raise EngineError(f"cannot be reached: {failure}", where=f"{self.base_url}{path}") from failure
        if answer.status_code >= 400:
            raise _error(answer, path)
        return answer


def _error(answer: httpx.Response, path: str) -> Exception:
    try:
        form = answer.json()
        detail = str(form.get("detail") or form.get("error") or answer.reason_phrase)
    except ValueError:
        detail = answer.reason_phrase
    where = f"HTTP {answer.status_code} from {path}"
    if answer.status_code >= 500:
        return EngineError(detail, where=where)
    if answer.status_code == 404:
        return NotFound(detail, where=where)
    if answer.status_code in {400, 422}:
        return InvalidInput(detail, where=where)
    return Refused(detail, where=where)


def _prediction(answer: httpx.Response, rows: int) -> Prediction:
    import numpy as np

    try:
        form = answer.json()
        outputs = {o["name"]: np.asarray(o["data"]).reshape(o["shape"]) for o in form["outputs"]}
        version = int(answer.headers.get("x-model-version") or form["model_version"])
    except (ValueError, KeyError, TypeError) as failure:
        raise EngineError(f"the answer cannot be read: {failure}") from None
    return Prediction(
        labels=outputs.get("label"),
        probabilities=outputs.get("probabilities"),
        values=outputs.get("value"),
        version=version,
        prediction_id=answer.headers.get("x-prediction-id", ""),
        rows=rows,
    )
