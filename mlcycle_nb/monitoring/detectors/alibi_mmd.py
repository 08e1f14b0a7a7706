"""Maximum mean discrepancy by alibi-detect: all numeric columns at once, so that it sees changed dependence too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from alibi_detect.cd.pytorch.mmd import MMDDriftTorch
from scipy import stats

from mlcycle_nb.monitoring.detectors._contract import Comparison, Floats, Kind

REFERENCE_ROWS = 500
CURRENT_ROWS = 500
PERMUTATIONS = 999
COUNTED = 10
"""Permutations at least as extreme below which their count is too coarse for a p-value."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    detector: Any
    mean: Floats
    scale: Floats


@dataclass(frozen=True, slots=True)
class AlibiMaximumMeanDiscrepancy:
    """Effect: the discrepancy itself (square root of MMD squared, with a Gaussian kernel), 0 to about 1.

    The kernel is alibi-detect's. The permutation test is done here, all permutations as one matrix product. When
    fewer than 10 of 999 permutations are as extreme as the data, the p-value comes from a Pearson III curve with
    the permutations' mean, variance and skewness: control over a stream of windows needs finer ones than 1/1000.
    Reference and window are thinned to 500 rows, because the cost grows with their square.
    """

    kind: Kind = "joint"
    effect_name: str = "maximum mean discrepancy"
    effect_bound: float = 0.05

    def prepare(self, reference: Floats) -> _Prepared:
        mean, scale = reference.mean(axis=0), reference.std(axis=0)
        scale[scale == 0] = 1.0
        rows = _thinned((reference - mean) / scale, REFERENCE_ROWS).astype(np.float32)
        detector = MMDDriftTorch(rows, x_ref_preprocessed=True, n_permutations=1, device="cpu")
        return _Prepared(detector, mean, scale)

    def compare(self, prepared: _Prepared, current: Floats) -> Comparison:
        rows = _thinned((current - prepared.mean) / prepared.scale, CURRENT_ROWS).astype(np.float32)
        detector = prepared.detector
        with torch.no_grad():
            kernel = detector.kernel_matrix(torch.from_numpy(detector.x_ref), torch.from_numpy(rows)).numpy()
        kernel = kernel.astype(np.float64)
        np.fill_diagonal(kernel, 0.0)
        observed, permuted = _discrepancies(kernel, len(rows))
        return Comparison(p_value=_tail(observed, permuted), effect=float(np.sqrt(max(observed, 0.0))))


def _thinned(rows: Floats, limit: int) -> Floats:
    """Return at most `limit` rows, chosen by their values, so that their order does not matter."""
    if len(rows) <= limit:
        return rows
    order = np.lexsort(rows.T)
    return rows[order[np.random.default_rng(0).choice(len(rows), limit, replace=False)]]


def _discrepancies(kernel: Floats, current: int) -> tuple[float, Floats]:
    """Return the unbiased MMD squared of the data, and of each permutation of the rows."""
    total = len(kernel)
    reference = total - current
    # Rows are shuffled in an order that depends on the kernel alone, so that the answer does not depend on theirs.
    order = np.argsort(kernel.sum(axis=1), kind="stable")
    rng = np.random.default_rng(0)
    first = np.zeros((total, PERMUTATIONS + 1))
    first[:reference, 0] = 1.0
    for column in range(1, PERMUTATIONS + 1):
        first[order[rng.permutation(total)[:reference]], column] = 1.0
    product = kernel @ first
    within_first = (first * product).sum(axis=0)
    across = product.sum(axis=0) - within_first
    within_second = kernel.sum() - within_first - 2 * across
    values = (
        within_first / (reference * (reference - 1))
        + within_second / (current * (current - 1))
        - 2 * across / (reference * current)
    )
    return float(values[0]), values[1:]


def _tail(observed: float, permuted: Floats) -> float:
    extreme = int((permuted >= observed).sum())
    counted = (extreme + 1) / (len(permuted) + 1)
    if extreme >= COUNTED:
        return counted
    skew = float(stats.skew(permuted))
    fitted = float(stats.pearson3.sf(observed, skew, loc=permuted.mean(), scale=permuted.std()))
    return min(counted, max(fitted, 1e-300)) if np.isfinite(fitted) else counted


PLUGIN = AlibiMaximumMeanDiscrepancy()
