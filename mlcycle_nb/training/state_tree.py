"""State dictionaries as tensors and JSON: no code runs when they are read back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mlcycle_nb.errors import InvalidInput

_TAGS = frozenset({"$tensor", "$items", "$tuple", "$float"})


def split(tree: Any, prefix: str) -> tuple[Any, dict[str, Any]]:
    """Return `tree` as JSON, with each tensor replaced by a key, and the tensors by key.

    Parameters
    ----------
    tree : object
        What ``state_dict()`` returned: mappings, lists, tuples, numbers, texts, None, tensors and numpy scalars.
    prefix : str
        Beginning of every tensor's key.

    Raises
    ------
    InvalidInput
        Naming the place of a value of any other type.
    """
    tensors: dict[str, Any] = {}
    return _encode(tree, prefix, tensors), tensors


def join(document: Any, tensors: Mapping[str, Any]) -> Any:
    """Return the tree that `split` took apart."""
    if isinstance(document, list):
        return [join(part, tensors) for part in document]
    if not isinstance(document, dict):
        return document
    if len(document) == 1:
        tag, value = next(iter(document.items()))
        if tag == "$tensor":
            return tensors[value]
        if tag == "$tuple":
            return tuple(join(part, tensors) for part in value)
        if tag == "$items":
            return {join(key, tensors): join(part, tensors) for key, part in value}
        if tag == "$float":
            return float(value)
    return {key: join(part, tensors) for key, part in document.items()}


def _encode(value: Any, place: str, tensors: dict[str, Any]) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, Mapping):
        plain = all(isinstance(key, str) for key in value) and not _TAGS & set(value)
        if plain:
            return {key: _encode(part, f"{place}.{key}", tensors) for key, part in value.items()}
        return {
            "$items": [
                [_encode(key, place, tensors), _encode(p, f"{place}.{key}", tensors)] for key, p in value.items()
            ]
        }
    if isinstance(value, list):
        return [_encode(part, f"{place}.{position}", tensors) for position, part in enumerate(value)]
    if isinstance(value, tuple):
        return {"$tuple": [_encode(part, f"{place}.{position}", tensors) for position, part in enumerate(value)]}
    return _encode_foreign(value, place, tensors)


def _encode_foreign(value: Any, place: str, tensors: dict[str, Any]) -> Any:
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        tensors[place] = value
        return {"$tensor": place}
    if isinstance(value, np.generic):
        return _encode(value.item(), place, tensors)
    raise InvalidInput(
        f"a checkpoint cannot hold a {type(value).__name__}",
        where=place,
        remedy="keep tensors, numbers, texts, lists and dictionaries in the state",
    )
