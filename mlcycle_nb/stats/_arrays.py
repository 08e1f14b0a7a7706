"""Check the arrays that come in: one dimension, finite, not empty."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mlcycle_nb.errors import InvalidInput

Floats: TypeAlias = npt.NDArray[np.float64]


def finite_vector(values: npt.ArrayLike, *, what: str, minimum: int = 1) -> Floats:
    """Return `values` as a float vector; the first NaN or infinity is refused with its position."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise InvalidInput(f"{what} must have one dimension", value=array.shape)
    if len(array) < minimum:
        raise InvalidInput(f"{what} needs at least {minimum} values", value=len(array))
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise InvalidInput(
            f"{what} holds {len(bad)} values that are not finite",
            value=float(array[bad[0]]),
            where=f"{what}[{bad[0]}]",
            remedy="drop or impute them first, and count them",
        )
    return array


def probability(value: float, *, what: str) -> float:
    """Return `value` when it is strictly between 0 and 1."""
    if isinstance(value, bool) or not 0.0 < value < 1.0:
        raise InvalidInput(f"{what} must be a number strictly between 0 and 1", value=value)
    return float(value)
