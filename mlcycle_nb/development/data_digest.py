"""Digests of the data a run used: the same values give the same digest in any process."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.files import sha256_file


class NoDigest(InvalidInput):
    """The value's bytes are not well defined."""


def data_digest(value: Any, *, name: str = "data") -> str:
    """Return ``sha256:<hex>`` of arrays, tensors, data frames, files, or containers of them.

    Type, shape and order count. A torch ``DataLoader`` stands for its dataset, a dataset for its ``tensors``.

    Raises
    ------
    NoDigest
        When the value's bytes are not well defined, such as an array of arbitrary objects.
    InvalidInput
        When there is no such file.
    """
    hasher = hashlib.sha256()
    _feed(hasher, value, name)
    return f"sha256:{hasher.hexdigest()}"


def _feed(hasher: Any, value: Any, name: str) -> None:
    if isinstance(value, Path):
        _mark(hasher, "file", sha256_file(value) if value.is_file() else _folder(value, name))
    elif value is None or isinstance(value, str | int | float | bool | bytes):
        _mark(hasher, type(value).__name__, repr(value))
    elif isinstance(value, Mapping):
        _mark(hasher, "mapping", len(value))
        for key in sorted(value, key=str):
            _mark(hasher, "key", repr(key))
            _feed(hasher, value[key], f"{name}[{key!r}]")
    elif isinstance(value, list | tuple):
        _mark(hasher, "sequence", len(value))
        for position, part in enumerate(value):
            _feed(hasher, part, f"{name}[{position}]")
    elif not (
        _feed_torch(hasher, value, name) or _feed_pandas(hasher, value, name) or _feed_array(hasher, value, name)
    ):
        raise NoDigest(
            f"{name}: data of type {type(value).__name__} has no digest",
            remedy="name an array, a tensor, a data frame, a Path, or a list or dict of these",
        )


def _mark(hasher: Any, kind: str, content: object) -> None:
    hasher.update(f"\x1f{kind}:{content}\x1e".encode())


def _folder(path: Path, name: str) -> str:
    if not path.is_dir():
        raise InvalidInput(f"{name}: there is no such file or folder", value=str(path))
    parts = [(str(file.relative_to(path)), sha256_file(file)) for file in sorted(path.rglob("*")) if file.is_file()]
    return json.dumps(parts)


def _feed_torch(hasher: Any, value: Any, name: str) -> bool:
    torch = sys.modules.get("torch")  # a value of torch cannot exist before torch is imported
    if torch is None:
        return False
    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu().contiguous()
        _mark(hasher, "tensor", f"{plain.dtype} {tuple(plain.shape)}")
        hasher.update(plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else b"")
        return True
    if isinstance(value, torch.utils.data.DataLoader):
        _feed(hasher, value.dataset, f"{name}.dataset")
        return True
    if isinstance(value, torch.utils.data.Subset):
        _feed(hasher, list(value.indices), f"{name}.indices")
        _feed(hasher, value.dataset, f"{name}.dataset")
        return True
    if isinstance(value, torch.utils.data.TensorDataset):
        _feed(hasher, value.tensors, f"{name}.tensors")
        return True
    return False


def _feed_pandas(hasher: Any, value: Any, name: str) -> bool:
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(value, pandas.DataFrame | pandas.Series | pandas.Index):
        return False
    if isinstance(value, pandas.DataFrame):
        _mark(hasher, "frame", [(str(column), str(dtype)) for column, dtype in value.dtypes.items()])
    else:
        _mark(hasher, "series", f"{value.name} {value.dtype}")
    try:
        hashes = pandas.util.hash_pandas_object(value, index=True)
    except TypeError as failure:
        raise NoDigest(f"{name}: holds objects without a digest ({failure})") from None
    hasher.update(hashes.to_numpy().tobytes())
    return True


def _feed_array(hasher: Any, value: Any, name: str) -> bool:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return False
    if isinstance(value, numpy.generic):
        value = numpy.asarray(value)
    if not isinstance(value, numpy.ndarray):
        return False
    _mark(hasher, "array", f"{value.dtype.str} {value.shape}")
    if value.dtype.hasobject:
        flat = value.ravel().tolist()
        if not all(part is None or isinstance(part, str | int | float | bool) for part in flat):
            raise NoDigest(f"{name}: holds objects without a digest", remedy="give it a numeric or text dtype")
        _mark(hasher, "objects", json.dumps(flat))
    else:
        hasher.update(numpy.ascontiguousarray(value).tobytes())
    return True
