"""The random number generators of a worker: python, numpy, torch, CUDA."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_RANK_STRIDE = 1_000_003
_EPOCH_STRIDE = 7_919


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rank_seed(seed: int, rank: int) -> int:
    """Return the seed of one rank: rank 0 has the job's own."""
    return (seed + rank * _RANK_STRIDE) % 2**63


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of the order of an epoch, the same on all ranks."""
    return (seed * 31 + (epoch + 1) * _EPOCH_STRIDE) % 2**63


def capture() -> dict[str, Any]:
    """Return the state of all generators of this process, as JSON types."""
    import numpy as np
    import torch

    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": [version, _pack(np.asarray(words, dtype=np.uint32)), gauss],
        "numpy": [str(name), _pack(np.asarray(keys, dtype=np.uint32)), int(position), int(has_gauss), float(cached)],
        "torch": _pack(torch.get_rng_state().numpy()),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = _pack(torch.cuda.get_rng_state().numpy())
    return state


def restore(state: dict[str, Any]) -> None:
    """Put all generators back to what `capture` returned."""
    import numpy as np
    import torch

    version, words, gauss = state["python"]
    random.setstate((version, tuple(int(word) for word in _unpack(words, np.uint32)), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, _unpack(keys, np.uint32), position, has_gauss, cached))
    torch.set_rng_state(torch.from_numpy(_unpack(state["torch"], np.uint8).copy()))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.from_numpy(_unpack(state["cuda"], np.uint8).copy()))


@contextmanager
def aside(seed: int) -> Iterator[None]:
    """Seed all generators for a while, then put them back."""
    before = capture()
    try:
        seed_everything(seed)
        yield
    finally:
        restore(before)


def _pack(values: Any) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")


def _unpack(text: str, dtype: Any) -> Any:
    import numpy as np

    return np.frombuffer(base64.b64decode(text), dtype=dtype)
