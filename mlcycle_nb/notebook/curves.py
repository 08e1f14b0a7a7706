"""A curve of any length in bounded memory: least and greatest value of each stretch of steps."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable

Point = tuple[int, float]
STRETCHES = 200
"""Most stretches a curve is divided into; at most twice as many points are kept, and its two ends."""


class Curve:
    """Points that arrive in the order of their steps; all of a short curve, the extremes of a long one.

    When there are too many, neighbouring stretches are joined: what is kept afterwards was kept before, so a viewer
    that has the points needs to be told only which ones go. No peak is lost, however narrow.

    Parameters
    ----------
    stretches : int
        Most stretches; each keeps its least and its greatest value.

    Attributes
    ----------
    width : int
        Steps in a stretch.
    not_finite : int
        How many values were NaN or infinite; they have no place on an axis.
    """

    def __init__(self, stretches: int = STRETCHES) -> None:
        self.width = 1
        self.not_finite = 0
        self._most = stretches
        self._stretches: list[tuple[int, list[Point]]] = []
        self._first: Point | None = None
        self._last: Point | None = None

    def __bool__(self) -> bool:
        return self._last is not None

    @property
    def last(self) -> Point | None:
        """The newest point."""
        return self._last

    def add(self, step: int, value: float) -> None:
        """Take in one point; one at a step that is there already replaces it."""
        if not math.isfinite(value):
            self.not_finite += 1
            return
        if self._last is not None and step <= self._last[0]:
            self._put_back(step, value)
            return
        self._last = (step, value)
        if self._first is None:
            self._first = self._last
        index = step // self.width
        if self._stretches and self._stretches[-1][0] == index:
            self._stretches[-1] = (index, _extremes([*self._stretches[-1][1], (step, value)]))
            return
        self._stretches.append((index, [(step, value)]))
        if len(self._stretches) > self._most:
            self._join()

    def extend(self, points: Iterable[Point]) -> None:
        """Take in many points."""
        for step, value in points:
            self.add(step, value)

    def truncate(self, step: int) -> None:
        """Forget all points after `step`."""
        kept = [point for point in self.points() if point[0] <= step]
        self._stretches = []
        for point in kept:
            index = point[0] // self.width
            if self._stretches and self._stretches[-1][0] == index:
                self._stretches[-1][1].append(point)
            else:
                self._stretches.append((index, [point]))
        self._stretches = [(index, _extremes(points)) for index, points in self._stretches]
        self._first, self._last = (kept[0], kept[-1]) if kept else (None, None)

    def points(self) -> list[Point]:
        """Return what is kept, in the order of the steps: the extremes, the first point and the last."""
        points = [point for _, stretch in self._stretches for point in stretch]
        if self._first is not None and points[0][0] != self._first[0]:
            points.insert(0, self._first)
        if self._last is not None and points[-1][0] != self._last[0]:
            points.append(self._last)
        return points

    def best(self, *, higher_is_better: bool = False) -> Point | None:
        """Return the first of the best points; exact, as extremes are never dropped."""
        if not self:
            return None
        choose: Callable[..., Point] = max if higher_is_better else min
        return choose(self.points(), key=lambda point: point[1])

    # -- parts -----------------------------------------------------------------------------------------------

    def _join(self) -> None:
        self.width *= 2
        joined: list[tuple[int, list[Point]]] = []
        for index, points in self._stretches:
            if joined and joined[-1][0] == index // 2:
                joined[-1] = (index // 2, _extremes([*joined[-1][1], *points]))
            else:
                joined.append((index // 2, points))
        self._stretches = joined

    def _put_back(self, step: int, value: float) -> None:
        index = step // self.width
        indices = [known for known, _ in self._stretches]
        at = bisect_left(indices, index)
        if at < len(indices) and indices[at] == index:
            points = [point for point in self._stretches[at][1] if point[0] != step]
            points.insert(bisect_right([known for known, _ in points], step), (step, value))
            self._stretches[at] = (index, _extremes(points))
        else:
            self._stretches.insert(at, (index, [(step, value)]))
        if self._last is not None and step == self._last[0]:
            self._last = (step, value)
        if self._first is not None and step <= self._first[0]:
            self._first = (step, value)


def _extremes(points: list[Point]) -> list[Point]:
    """Return the least and the greatest of the points of one stretch, in the order of their steps."""
    if len(points) <= 2:
        return points
    low = min(points, key=lambda point: point[1])
    high = max(points, key=lambda point: point[1])
    return [low] if low is high else sorted((low, high))
