"""Maximum mean discrepancy by alibi-detect: all numeric columns at once, so that it sees changed dependence too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from alibi_detect.cd.pytorch.mmd import MMDDriftTorch

from mlcycle_nb.monitoring.detectors._contract import Comparison, Floats, Kind
from mlcycle_nb.monitoring.detectors._permutation import Scale, canonical, discrepancies, tail


@dataclass(frozen=True, slots=True)
class _Prepared:
    detector: Any
    scale: Scale


@dataclass(frozen=True, slots=True)
class AlibiMaximumMeanDiscrepancy:
    """Effect: the discrepancy itself (square root of MMD squared, with a Gaussian kernel), 0 to about 1.

    The kernel is alibi-detect's. The permutation test is done here, all 999 permutations as one matrix product.
    Reference and window are thinned to 500 rows, because the cost grows with their square.
    """

    kind: Kind = "joint"
    effect_name: str = "maximum mean discrepancy"
    effect_bound: float = 0.05

    def prepare(self, reference: Floats) -> _Prepared:
        scale = Scale.of(reference)
        rows = canonical(scale.apply(reference)).astype(np.float32)
        detector = MMDDriftTorch(rows, x_ref_preprocessed=True, n_permutations=1, device="cpu")
        return _Prepared(detector, scale)

    def compare(self, prepared: _Prepared, current: Floats) -> Comparison:
        rows = canonical(prepared.scale.apply(current)).astype(np.float32)
        detector = prepared.detector
        with torch.no_grad():
            kernel = detector.kernel_matrix(torch.from_numpy(detector.x_ref), torch.from_numpy(rows)).numpy()
        kernel = kernel.astype(np.float64)
        np.fill_diagonal(kernel, 0.0)
        observed, permuted = discrepancies(kernel, len(detector.x_ref))
        return Comparison(p_value=tail(observed, permuted), effect=float(np.sqrt(max(observed, 0.0))))


PLUGIN = AlibiMaximumMeanDiscrepancy()
