"""Handing the trained model over: written once by rank 0, read only to package it.

The model is a pickle, so it is read by nobody but the packaging process of this workspace, after its digest was
compared; what is served is the package.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mlcycle_nb.errors import IntegrityError, InvalidInput, NotFound
from mlcycle_nb.files import sha256_file, write_atomically

MODEL_NAME = "model.pkl"
ROWS_NAME = "rows.npz"
RESULT_NAME = "result.json"
REFERENCE_ROWS = 2000
EXAMPLE_ROWS = 64
TASKS = ("classification", "regression")


def store_model(
    folder: Path,
    model: Any,
    *,
    reference: Any = None,
    reference_labels: Any = None,
    example: Any = None,
    feature_names: Any = None,
    class_names: Any = None,
    task: str | None = None,
) -> dict[str, Any]:
    """Write a model and its reference rows; return the result document."""
    import cloudpickle
    import numpy as np

    if task is not None and task not in TASKS:
        raise InvalidInput("task must be classification or regression", value=task)
    rows = {}
    for name, values in (("reference", reference), ("labels", reference_labels), ("example", example)):
        if values is not None:
            rows[name] = _array(values, name)
    if "example" not in rows and "reference" in rows:
        rows["example"] = rows["reference"][:EXAMPLE_ROWS]
    if "labels" in rows and "reference" in rows and len(rows["labels"]) != len(rows["reference"]):
        raise InvalidInput(
            f"reference has {len(rows['reference'])} rows and reference_labels {len(rows['labels'])}",
            remedy="give one label for each row",
        )
    write_atomically(folder / MODEL_NAME, cloudpickle.dumps(model, protocol=5))
    staged = folder / f".{ROWS_NAME}"
    with staged.open("wb") as out:
        np.savez(out, **rows)
    staged.replace(folder / ROWS_NAME)
    document = {
        "files": {name: sha256_file(folder / name) for name in (MODEL_NAME, ROWS_NAME)},
        "type": f"{type(model).__module__}.{type(model).__qualname__}",
        "task": task or guess_task(rows.get("labels")),
        "feature_names": None if feature_names is None else [str(name) for name in feature_names],
        "class_names": None if class_names is None else [str(name) for name in class_names],
    }
    write_atomically(folder / RESULT_NAME, json.dumps(document, indent=1))
    return document


def load_model(folder: Path) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return model, rows and document of a result whose digests hold."""
    import pickle

    import numpy as np

    document = read_result(folder)
    content = (folder / MODEL_NAME).read_bytes()
    if hashlib.sha256(content).hexdigest() != document["files"][MODEL_NAME]:
        raise IntegrityError("the trained model was changed after training", where=str(folder / MODEL_NAME))
    if sha256_file(folder / ROWS_NAME) != document["files"][ROWS_NAME]:
        raise IntegrityError("the reference rows were changed after training", where=str(folder / ROWS_NAME))
    with np.load(folder / ROWS_NAME, allow_pickle=False) as archive:
        rows = {name: archive[name] for name in archive.files}
    return pickle.loads(content), rows, document


def read_result(folder: Path) -> dict[str, Any]:
    """Return the result document of a job that handed a model over."""
    try:
        return dict(json.loads((folder / RESULT_NAME).read_text()))
    except FileNotFoundError:
        raise NotFound(
            "the job handed no model over", remedy="end the cell with fit(...) or save_model(model, example=rows)"
        ) from None


def guess_task(labels: Any) -> str:
    """Return regression for labels of type float, unless they are zeros and ones, as for BCE losses."""
    if labels is None or labels.dtype.kind != "f":
        return "classification"
    return "classification" if ((labels == 0) | (labels == 1)).all() else "regression"


def rows_of(loader: Any, limit: int = REFERENCE_ROWS) -> tuple[Any, Any]:
    """Return up to `limit` rows and labels of a training loader, spread evenly; None for what it does not have."""
    import numpy as np
    import torch

    data = torch.utils.data
    if not isinstance(loader, data.DataLoader) or isinstance(loader.dataset, data.IterableDataset):
        return None, None
    if loader.batch_sampler is None or not len(loader.dataset):
        return None, None
    count = len(loader.dataset)
    chosen = np.unique(np.linspace(0, count - 1, min(count, limit)).astype(int)).tolist()
    inputs, labels = [], []
    for start in range(0, len(chosen), 256):
        batch = loader.collate_fn([loader.dataset[row] for row in chosen[start : start + 256]])
        if not (isinstance(batch, list | tuple) and len(batch) == 2 and all(hasattr(part, "numpy") for part in batch)):
            return None, None
        inputs.append(batch[0].detach().cpu().numpy())
        labels.append(batch[1].detach().cpu().numpy())
    targets = np.concatenate(labels)
    return np.concatenate(inputs), targets.reshape(-1) if targets.size == len(targets) else None


def _array(values: Any, name: str) -> Any:
    import numpy as np

    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.dtype == object:
        raise InvalidInput(f"{name} is not an array of numbers", value=type(values).__name__)
    return array
