"""Recorded requests, and what two versions answer to them: the material of a simulation."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlcycle_nb.errors import InvalidInput, Refused
from mlcycle_nb.packages import load_runtime

if TYPE_CHECKING:
    import pyarrow as pa

    from mlcycle_nb.packages import Package

ROWS_AT_ONCE = 1024
TIMED_ROWS = 100
NEEDED = ("prediction_id", "time", "row", "input")


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """Requests in the order in which they came.

    Parameters
    ----------
    ids : list of str, length n_rows
        The request of each row.
    rows : ndarray of int, shape (n_rows,)
        The row's place in its request.
    times : list of datetime, length n_rows
    latencies_ms : ndarray, shape (n_rows,)
        How long the recorded answer took.
    answers : dict of int to ndarray, shape (n_rows,)
        Class index or value by version; NaN where the model's answer was not finite or it failed.
    column : str
        ``label`` or ``value``.
    slowness : float
        How much longer the new version takes for a row than the other, measured here; 1 is equal.
    """

    ids: list[str]
    rows: NDArray[np.int64]
    times: list[datetime]
    latencies_ms: NDArray[np.float64]
    answers: Mapping[int, NDArray[np.float64]]
    column: str
    slowness: float


def read_file(path: Path, *, where: str = "--simulate") -> pa.Table:
    """Read a recording: Arrow or Parquet with the columns of the prediction log."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
        elif path.suffix == ".arrow":
            with pa.OSFile(str(path), "rb") as source, pa.ipc.open_file(source) as reader:
                table = reader.read_all()
        else:
            raise InvalidInput("a recording is a .parquet or .arrow file, or a time such as 24h", value=str(path))
    except FileNotFoundError:
        raise InvalidInput("there is no such recording", value=str(path), where=where) from None
    except (pa.ArrowInvalid, OSError) as failure:
        raise InvalidInput("the recording cannot be read", value=str(path), where=str(failure)[:200]) from None
    missing = [name for name in NEEDED if name not in table.column_names]
    if missing:
        raise InvalidInput(
            f"the recording lacks {', '.join(missing)}", value=str(path), remedy=f"needed: {', '.join(NEEDED)}"
        )
    return table


def answer(table: pa.Table, packages: Mapping[int, Package]) -> Recorded:
    """Have the packages, first the stable one, answer the rows of a recording.

    Raises
    ------
    Refused
        When a package runs code: such a one is loaded in replicas only.
    InvalidInput
        When nothing was recorded, or rows do not fit the models.
    """
    if table.num_rows == 0:
        raise InvalidInput("nothing was recorded", where="--simulate", remedy="give a longer time, or a file")
    table = table.sort_by([("time", "ascending"), ("prediction_id", "ascending"), ("row", "ascending")])
    inputs = table["input"].to_pylist()
    runtimes = {version: _runtime(package, version) for version, package in packages.items()}
    tensors = {version: _tensor(inputs, package) for version, package in packages.items()}
    latency = table["latency_ms"].to_numpy() if "latency_ms" in table.column_names else np.full(len(inputs), 5.0)
    column = "label" if next(iter(packages.values())).task == "classification" else "value"
    return Recorded(
        ids=table["prediction_id"].to_pylist(),
        rows=table["row"].to_numpy().astype(np.int64),
        times=table["time"].to_pylist(),
        latencies_ms=np.nan_to_num(np.asarray(latency, dtype=np.float64), nan=5.0),
        answers={version: _answers(runtimes[version], tensors[version], column) for version in packages},
        column=column,
        slowness=_slowness(list(runtimes.values()), list(tensors.values())),
    )


def _runtime(package: Package, version: int) -> Any:
    if package.format != "onnx":
        raise Refused(
            f"version {version} is a {package.format} package, whose code runs in replicas only",
            remedy="roll it out with --mirror 100 and a small first step",
        )
    return load_runtime(package)


def _tensor(inputs: list[Any], package: Package) -> tuple[str, NDArray[Any]]:
    spec = package.signature.inputs[0]
    try:
        tensor = np.asarray(inputs, dtype=spec.numpy_name).reshape(len(inputs), *spec.shape[1:])
    except ValueError:
        raise InvalidInput(
            f"the recorded rows do not fit the model, which takes {spec.values_per_row} numbers a row",
            where="--simulate",
        ) from None
    return spec.name, tensor


def _answers(runtime: Any, tensor: tuple[str, NDArray[Any]], column: str) -> NDArray[np.float64]:
    name, rows = tensor
    parts = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        found = runtime.predict({name: rows[start : start + ROWS_AT_ONCE]})
        part = np.asarray(found[column], dtype=np.float64).reshape(len(rows[start : start + ROWS_AT_ONCE]))
        if "probabilities" in found:  # a replica refuses to give these as an answer
            part = np.where(np.isfinite(found["probabilities"]).all(axis=1), part, np.nan)
        parts.append(np.where(np.isfinite(part), part, np.nan))
    return np.concatenate(parts)


def _slowness(runtimes: list[Any], tensors: list[tuple[str, NDArray[Any]]]) -> float:
    """Return how much longer the second runtime takes, each row alone and both in turn."""
    taken: list[list[float]] = [[], []]
    for number in range(min(TIMED_ROWS, len(tensors[0][1]))):
        for side, (runtime, (name, rows)) in enumerate(zip(runtimes, tensors, strict=True)):
            began = time.perf_counter()
            runtime.predict({name: rows[number : number + 1]})
            taken[side].append(time.perf_counter() - began)
    return float(np.median(taken[1]) / np.median(taken[0]))
