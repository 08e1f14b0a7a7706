"""Online Cramer-von Mises by alibi-detect: numeric columns, row after row; finds a change inside a window."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from alibi_detect.cd import CVMDriftOnline

from mlcycle_nb.monitoring.detectors._contract import Comparison, Floats, Kind
from mlcycle_nb.monitoring.detectors._permutation import canonical, even, tail
from mlcycle_nb.monitoring.detectors._seeded import seeded

_REFERENCE_ROWS, _ROWS = 200, 200
_SIZES = (20, 40)
_STREAMS = 300


@dataclass(frozen=True, slots=True)
class _Prepared:
    detector: Any
    streams: dict[int, Floats] = field(default_factory=dict)  # rows -> largest statistic of streams without drift


@dataclass(frozen=True, slots=True)
class AlibiCramerVonMisesOnline:
    """Effect: root mean square distance of distribution functions at the worst moment, 0 to 0.58.

    Statistics over the last 20 and 40 rows, after each row, are alibi-detect's. Its thresholds bound how often a
    stream without end gives a false alarm; a window needs a p-value, which is the share of 300 simulated streams of
    the window's length whose largest statistic is as large. They are alibi-detect's own simulation, and hold for
    columns without ties. Each window begins anew; of more than 200 rows every second, third, ... is taken.
    """

    kind: Kind = "numeric"
    effect_name: str = "distance of distribution functions at the worst moment"
    effect_bound: float = 0.1
    smallest_sample: int = 40
    ordered: bool = True

    def prepare(self, reference: Floats) -> _Prepared:
        rows = canonical(reference.reshape(-1, 1), _REFERENCE_ROWS).astype(np.float64)
        with seeded():
            detector = CVMDriftOnline(rows, ert=100.0, window_sizes=list(_SIZES), n_bootstraps=400, verbose=False)
        return _Prepared(detector)

    def compare(self, prepared: _Prepared, current: Floats) -> Comparison:
        rows = even(current, _ROWS)
        detector = prepared.detector
        if len(rows) not in prepared.streams:
            with seeded():
                detector.n_bootstraps = detector.batch_size = _STREAMS
                prepared.streams[len(rows)] = _largest(detector._simulate_streams(len(rows)))
        detector.reset_state()
        statistics = np.stack([detector.score(np.array([value])) for value in rows])[:, :, 0]
        observed = float(_largest(statistics[None])[0])
        return Comparison(p_value=tail(observed, prepared.streams[len(rows)]), effect=_effect(statistics, detector.n))


def _largest(statistics: Floats) -> Floats:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # moments before the first full sub-window
        largest: Floats = np.nanmax(statistics, axis=(1, 2))
    return largest


def _effect(statistics: Floats, n: int) -> float:
    # Back from alibi-detect's standardised statistic to the mean square distance that it is made of.
    size = _SIZES[-1]
    total = n + size
    product = n * size / total**2
    numerator = (total + 1) * (4 * n * size * total - 3 * (n**2 + size**2) - 2 * n * size)
    deviation = np.sqrt(numerator / (45 * total**2 * 4 * n * size))
    worst = float(np.nanmax(statistics[:, -1]))
    return float(np.sqrt(max(worst * deviation, 0.0) / product / total))


PLUGIN = AlibiCramerVonMisesOnline()
