"""Least-squares density difference by alibi-detect: all numeric columns at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from alibi_detect.cd.pytorch.lsdd import LSDDDriftTorch
from alibi_detect.utils.pytorch.distance import permed_lsdds

from mlcycle_nb.monitoring.detectors._contract import Comparison, Floats, Kind
from mlcycle_nb.monitoring.detectors._permutation import Scale, canonical, memberships, tail
from mlcycle_nb.monitoring.detectors._seeded import seeded

_TUNING = 20  # permutations from which alibi-detect chooses its regularisation


@dataclass(frozen=True, slots=True)
class _Prepared:
    detector: Any
    scale: Scale


@dataclass(frozen=True, slots=True)
class AlibiLeastSquaresDensityDifference:
    """Effect: root of the density difference over what chance gives, 0 is none.

    Kernel, centres and regularisation are alibi-detect's; the permutation test over 999 permutations is done here.
    One in twenty rows of the reference becomes a centre, and is compared with nothing.
    """

    kind: Kind = "joint"
    effect_name: str = "root of the density difference"
    effect_bound: float = 0.05

    def prepare(self, reference: Floats) -> _Prepared:
        scale = Scale.of(reference)
        rows = canonical(scale.apply(reference)).astype(np.float32)
        with seeded():
            detector = LSDDDriftTorch(rows, x_ref_preprocessed=True, n_permutations=1, device="cpu")
        return _Prepared(detector, scale)

    def compare(self, prepared: _Prepared, current: Floats) -> Comparison:
        detector = prepared.detector
        rows = torch.from_numpy(canonical(prepared.scale.apply(current)).astype(np.float32))
        with torch.no_grad():
            to_centres = torch.cat([detector.k_xc, detector.kernel(detector._normalize(rows), detector.kernel_centers)])
            similar = to_centres.numpy().astype(np.float64)
            first = memberships(similar.sum(axis=1), len(detector.k_xc))
            inside = [torch.from_numpy(np.flatnonzero(first[:, column])) for column in range(1, _TUNING + 1)]
            outside = [torch.from_numpy(np.flatnonzero(first[:, column] == 0)) for column in range(1, _TUNING + 1)]
            _, regular = permed_lsdds(to_centres, inside, outside, detector.H, lam_rd_max=detector.lambda_rd_max)
        n = len(detector.k_xc)
        differences = similar.T @ (first / n - (1 - first) / (len(similar) - n))
        values = (differences * (regular.numpy().astype(np.float64) @ differences)).sum(axis=0)
        observed, permuted = float(values[0]), values[1:]
        effect = float(np.sqrt(max(observed - float(permuted.mean()), 0.0)))
        return Comparison(p_value=tail(observed, permuted), effect=effect)


PLUGIN = AlibiLeastSquaresDensityDifference()
