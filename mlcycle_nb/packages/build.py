"""Makes a package out of a model: export, proof against the original, golden batch, reference window."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlcycle_nb.errors import InvalidInput, Refused
from mlcycle_nb.packages import golden, reference
from mlcycle_nb.packages.exporters import CannotExport, Exporter, exporter_for
from mlcycle_nb.packages.formats.onnx import GRAPH_NAME, OnnxRuntime
from mlcycle_nb.packages.formats.python import CODE_NAME
from mlcycle_nb.packages.graph_checks import check_graph
from mlcycle_nb.packages.manifest import MANIFEST_NAME, GoldenTolerance, Manifest, Task
from mlcycle_nb.packages.package import Package
from mlcycle_nb.packages.rows import as_rows, as_targets
from mlcycle_nb.packages.signature import DATATYPES, Signature, TensorSpec
from mlcycle_nb.packages.store import PackageStore

if TYPE_CHECKING:
    import numpy as np
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from numpy.typing import NDArray

    from mlcycle_nb.packages.golden import Arrays

TOLERANCE = GoldenTolerance(atol=1e-4, rtol=1e-4)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What the format-specific half of a build gives."""

    format: str
    file_name: str
    data: bytes
    details: dict[str, Any]


def build_package(
    model: Any,
    *,
    example: Any,
    reference: Any = None,
    reference_labels: Any = None,
    feature_names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    format: Literal["auto", "onnx", "python"] = "auto",
    task: Task = "classification",
    limits: tuple[float, float] | None = None,
    out: PackageStore,
    signer: Ed25519PrivateKey | None = None,
) -> Package:
    """Package a model, proven to answer as the original does.

    Parameters
    ----------
    model : torch.nn.Module, scikit-learn estimator or callable
        The fitted model.
    example : array_like, shape (n_rows, ...)
        Typical rows: their shape is the signature, some of them become the golden batch.
    reference : array_like, optional
        Rows that later traffic is compared with; `example` when not given. At most 10,000 are kept.
    reference_labels : array_like, optional
        True class indices (or values) of `reference`.
    feature_names, class_names : sequence of str, optional
        Names of a row's values and of the classes; taken from the data or the model when not given.
    format : {"auto", "onnx", "python"}
        ``auto`` tries ONNX, and packages as signed Python what ONNX cannot express or does not answer alike.
    task : {"classification", "regression"}
        Which outputs the package has.
    limits : (float, float), optional
        Smallest and largest value a request may hold; requests outside are refused.
    out : PackageStore
        Where the package is put.
    signer : Ed25519PrivateKey, optional
        Key of the workspace; needed for Python packages.

    Returns
    -------
    Package
        Committed, opened.

    Raises
    ------
    InvalidInput
        If rows, names or labels do not fit each other.
    Refused
        If the model cannot be packaged in the format asked for.
    """
    rows, found_names = as_rows(example, what="example", integers=_takes_integers(model))
    window, _ = (
        as_rows(reference, what="reference", integers=rows.dtype.kind == "i") if reference is not None else (rows, ())
    )
    if window.shape[1:] != rows.shape[1:]:
        raise InvalidInput(f"reference rows have shape {list(window.shape[1:])}, example rows {list(rows.shape[1:])}")
    learned = getattr(model, "n_features_in_", None)
    if learned is not None and rows.shape[1:] != (learned,):
        raise InvalidInput(f"the model learned from {learned} features, example rows have shape {list(rows.shape[1:])}")
    exporter = exporter_for(model)
    batch = rows[_golden_rows(len(rows))]
    answers = exporter.answer(model, batch, task)
    for name, array in answers.items():
        if len(array) != len(batch):
            raise InvalidInput(f"the model gave {len(array)} rows of {name} for {len(batch)} rows")
    classes = _class_names(class_names, exporter.class_names(model), answers, task)
    content = _content(model, exporter, batch, answers, task, format)
    _refuse_what_is_not_finite(answers)
    if content.format == "python" and signer is None:
        raise Refused(
            f"this model runs as Python code, and such a package must be signed: {content.details['why_python']}",
            remedy="give signer=, the key of this workspace",
        )
    names = _feature_names(feature_names, found_names, rows.shape[1:])
    manifest = Manifest(
        format=content.format,
        task=task,
        signature=_signature(rows, answers, limits),
        files={},
        feature_names=names,
        class_names=classes,
        golden=TOLERANCE,
        details=content.details,
    )
    reference_bytes = _reference(model, exporter, window, reference_labels, names, task)
    with tempfile.TemporaryDirectory(prefix="build-", dir=out.root) as folder:
        build = Path(folder)
        _write(build / content.file_name, content.data)
        _write(build / golden.GOLDEN_NAME, golden.pack({"input": batch}, answers))
        _write(build / "reference.parquet", reference_bytes)
        _write(build / MANIFEST_NAME, manifest.to_bytes())
        package = out.add(build, signer=signer if content.format == "python" else None)
    if content.format == "python":
        _prove_python(package, out, signer)
    return package


def _refuse_what_is_not_finite(answers: Arrays) -> None:
    import numpy as np

    for name, array in answers.items():
        finite = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        if not finite.all():
            count, first = int((~finite).sum()), int(finite.argmin())
            raise Refused(
                f"the model answers {count} of {len(array)} example rows with a {name} that is not finite",
                where=f"first: row {first}",
            )


def _content(
    model: Any, exporter: Exporter, batch: NDArray[np.generic], answers: Arrays, task: Task, format: str
) -> _Content:
    details: dict[str, Any] = {"exporter": exporter.name, "versions": _versions(exporter.name)}
    why = "asked for"
    if format != "python":
        try:
            graph = exporter.to_onnx(model, batch, task)
            check_graph(graph, where=GRAPH_NAME)  # weights that are not finite are named here, not answered around
            largest = _prove_onnx(graph, batch, answers)
            return _Content(
                format="onnx", file_name=GRAPH_NAME, data=graph, details={**details, "largest_difference": largest}
            )
        except CannotExport as failure:
            if format == "onnx":
                raise
            why = failure.problem
    return _Content(
        format="python",
        file_name=CODE_NAME,
        data=_pickled(model),
        details={**details, "call": exporter.name, "why_python": why},
    )


def _prove_onnx(graph: bytes, batch: NDArray[np.generic], answers: Arrays) -> float:
    runtime = OnnxRuntime(graph)
    largest = 0.0
    for size in {1, len(batch)}:
        problem, gap = golden.difference(
            {name: array[:size] for name, array in answers.items()}, runtime.predict({"input": batch[:size]}), TOLERANCE
        )
        largest = max(largest, gap)
        if problem:
            raise CannotExport(f"the exported graph does not answer as the model does: {problem}")
    return float(f"{largest:.3g}")


def _prove_python(package: Package, out: PackageStore, signer: Ed25519PrivateKey | None) -> None:
    """Load the package in a fresh interpreter and answer the golden batch; remove it when that fails."""
    from mlcycle_nb.packages.probe import probe
    from mlcycle_nb.packages.signing import public_key_hex

    problem = probe(package, [public_key_hex(signer)] if signer else [])
    if problem:
        out.remove(package.digest)
        raise Refused(f"the packaged model fails in a fresh interpreter: {problem}")


def _pickled(model: Any) -> bytes:
    import cloudpickle

    try:
        content: bytes = cloudpickle.dumps(model)
    except Exception as failure:  # pickling calls into the model's own classes
        raise Refused(f"the model cannot be pickled: {type(failure).__name__}: {failure}") from failure
    return content


def _signature(rows: NDArray[np.generic], answers: Arrays, limits: tuple[float, float] | None) -> Signature:
    low, high = limits or (None, None)
    takes = TensorSpec("input", DATATYPES[rows.dtype.name], (-1, *rows.shape[1:]), low, high)
    gives = tuple(
        TensorSpec(name, DATATYPES[array.dtype.name], (-1, *array.shape[1:])) for name, array in answers.items()
    )
    return Signature((takes,), gives)


def _golden_rows(count: int) -> NDArray[np.int64]:
    import numpy as np

    return np.unique(np.linspace(0, count - 1, min(count, golden.GOLDEN_ROWS)).astype(np.int64))


def _feature_names(given: Sequence[str] | None, found: tuple[str, ...], shape: tuple[int, ...]) -> tuple[str, ...]:
    import math

    count = math.prod(shape)
    names = tuple(str(name) for name in given) if given is not None else found
    if not names:
        return tuple(f"f{position}" for position in range(count)) if count <= reference.REFERENCE_FEATURES else ()
    if len(names) != count:
        raise InvalidInput(f"{len(names)} feature names for rows of {count} values")
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise InvalidInput("two features have the same name", value=double)
    return names


def _class_names(given: Sequence[str] | None, own: tuple[str, ...], answers: Arrays, task: Task) -> tuple[str, ...]:
    if task == "regression":
        return ()
    probabilities = answers.get("probabilities")
    count = probabilities.shape[1] if probabilities is not None else len(own)
    names = tuple(str(name) for name in given) if given is not None else own
    if not names:
        return tuple(str(index) for index in range(count))
    if count and len(names) != count:
        raise InvalidInput(f"{len(names)} class names for a model with {count} classes")
    return names


def _reference(
    model: Any, exporter: Exporter, window: NDArray[np.generic], labels: Any, names: tuple[str, ...], task: Task
) -> bytes:
    chosen = reference.window_rows(len(window))
    truth = as_targets(labels, rows=len(window))
    kept = window[chosen]
    answers = exporter.answer(model, kept, task)
    predictions = answers["value" if task == "regression" else "label"]
    return reference.pack(kept, names, predictions, None if truth is None else truth[chosen])


def _takes_integers(model: Any) -> bool:
    return exporter_for(model).name == "torch"


def _versions(exporter: str) -> dict[str, str]:
    from importlib.metadata import version

    wanted = {"torch": ("torch", "onnx", "onnxscript"), "sklearn": ("scikit-learn", "skl2onnx", "onnx")}
    return {name: version(name) for name in (*wanted.get(exporter, ()), "numpy")}


def _write(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
