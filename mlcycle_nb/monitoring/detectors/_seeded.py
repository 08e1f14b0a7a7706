"""alibi-detect draws from the global generators of numpy and torch: they are set for a moment, and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Give both generators a seed inside the block; their state from before comes back after it."""
    before, torch_before = np.random.get_state(), torch.get_rng_state()
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
        torch.set_rng_state(torch_before)
