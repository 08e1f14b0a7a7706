"""Loss spikes: losses far above the median of those before, several steps in a row."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

_WINDOW = 128
_FEWEST = 32
_REFRESH = 8
_IN_A_ROW = 3
_DEVIATIONS = 10.0
_SMALLEST_SHARE = 0.5


class SpikeDetector:
    """Compares each loss of a rank with the median of its last ones.

    A step counts when its loss is above ``median + max(10 x 1.4826 x MAD, half of |median|)``; three such steps in a
    row are a spike. One bad batch, from which training recovers by itself, is none. The median and the MAD (median
    absolute deviation) do not move with the outliers that they are meant to find.
    """

    def __init__(self) -> None:
        self.recent: deque[float] = deque(maxlen=_WINDOW)
        self.above = 0
        self.bound: float | None = None
        self._taken = 0

    def take(self, loss: float) -> bool:
        """Take in the loss of a step; return whether this completes a spike."""
        if self.bound is not None and loss > self.bound:
            self.above += 1
            return self.above >= _IN_A_ROW
        self.above = 0
        self.recent.append(loss)
        self._taken += 1
        if self._taken % _REFRESH == 0 and len(self.recent) >= _FEWEST:
            self._refresh()
        return False

    def median(self) -> float:
        """Return the median of the losses that the next one is compared with."""
        return _median(sorted(self.recent))

    def state(self) -> list[float]:
        """Return what a checkpoint has to hold, as numbers of a fixed count."""
        kept = [*self.recent, *([0.0] * (_WINDOW - len(self.recent)))]
        bound = (0.0, 0.0) if self.bound is None else (1.0, self.bound)
        return [float(len(self.recent)), float(self._taken), float(self.above), *bound, *kept]

    def restore(self, state: Sequence[float]) -> None:
        """Go on from what a checkpoint held."""
        count, self._taken, self.above = (int(number) for number in state[:3])
        self.bound = state[4] if state[3] else None
        self.recent.clear()
        self.recent.extend(state[5 : 5 + count])

    def _refresh(self) -> None:
        middle = self.median()
        spread = 1.4826 * _median(sorted(abs(loss - middle) for loss in self.recent))
        self.bound = middle + max(_DEVIATIONS * spread, _SMALLEST_SHARE * abs(middle))


def _median(ordered: Sequence[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
