"""Online maximum mean discrepancy by alibi-detect: all numeric columns, row after row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from alibi_detect.utils.pytorch.kernels import GaussianRBF

from mlcycle_nb.monitoring.detectors._contract import Comparison, Floats, Kind
from mlcycle_nb.monitoring.detectors._permutation import Scale, canonical, even, tail

_REFERENCE_ROWS, _ROWS = 300, 200
_SIZE = 40
_PERMUTATIONS = 299


@dataclass(frozen=True, slots=True)
class _Prepared:
    rows: Floats
    scale: Scale
    kernel: Any


@dataclass(frozen=True, slots=True)
class AlibiMaximumMeanDiscrepancyOnline:
    """Effect: the discrepancy between reference and the worst 40 rows in a row, without what chance adds.

    Kernel and statistic (MMD squared of the last 40 rows, after each row) are alibi-detect's `MMDDriftOnline`. Its
    thresholds bound how often a stream without end gives a false alarm; a window needs a p-value, so the largest
    statistic is compared with that of 299 streams of the same length, drawn from reference and window together. Each
    window begins anew; of more than 200 rows every second, third, ... is taken.
    """

    kind: Kind = "joint"
    effect_name: str = "maximum mean discrepancy at the worst moment"
    effect_bound: float = 0.1
    smallest_sample: int = 60
    ordered: bool = True

    def prepare(self, reference: Floats) -> _Prepared:
        scale = Scale.of(reference)
        rows = canonical(scale.apply(reference), _REFERENCE_ROWS)
        kernel, tensor = GaussianRBF(), torch.from_numpy(rows)
        with torch.no_grad():
            kernel(tensor, tensor, infer_sigma=True)
        return _Prepared(rows, scale, kernel)

    def compare(self, prepared: _Prepared, current: Floats) -> Comparison:
        rows, n = even(prepared.scale.apply(current), _ROWS), len(prepared.rows)
        pooled = torch.from_numpy(np.concatenate([prepared.rows, rows]))
        with torch.no_grad():
            kernel = prepared.kernel(pooled, pooled).numpy().astype(np.float64)
        np.fill_diagonal(kernel, 0.0)
        sums = kernel.sum(axis=0)
        ranked, rng = np.argsort(sums, kind="stable"), np.random.default_rng(0)
        observed = _largest(kernel, sums, np.arange(n, len(kernel)))
        permuted = np.array(
            [_largest(kernel, sums, ranked[rng.permutation(len(kernel))[n:]]) for _ in range(_PERMUTATIONS)]
        )
        effect = float(np.sqrt(max(observed - float(permuted.mean()), 0.0)))
        return Comparison(p_value=tail(observed, permuted), effect=effect)


def _largest(kernel: Floats, sums: Floats, stream: Any) -> float:
    """Return the largest MMD squared of `_SIZE` rows in a row, when these pooled rows are the stream, in this order."""
    n = len(kernel) - len(stream)
    own = kernel[np.ix_(stream, stream)]
    among = np.pad(own.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    ends = np.arange(_SIZE, len(stream) + 1)
    begins = ends - _SIZE
    within = among[ends, ends] - among[begins, ends] - among[ends, begins] + among[begins, begins]
    to_reference = sums[stream] - own.sum(axis=0)
    across = np.concatenate([[0.0], to_reference.cumsum()])
    reference = (sums.sum() - 2 * to_reference.sum() - own.sum()) / (n * (n - 1))
    values = reference + within / (_SIZE * (_SIZE - 1)) - 2 * (across[ends] - across[begins]) / (n * _SIZE)
    return float(values.max())


PLUGIN = AlibiMaximumMeanDiscrepancyOnline()
