"""Curves of any length in bounded memory, and the changes that are told of them."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlcycle_nb.notebook.curves import Curve
from mlcycle_nb.notebook.increments import (
    apply_html_change,
    apply_rows_change,
    html_change,
    rows_change,
)


class TestCurve:
    """Short curves whole, long ones by their extremes."""

    def test_a_short_curve_is_kept_whole(self) -> None:
        """Nothing is thinned that need not be."""
        curve = Curve()
        points = [(step, math.sin(step)) for step in range(1, 201)]
        curve.extend(points)

        assert curve.points() == points

    def test_a_million_steps_keep_every_peak(self) -> None:
        """One value in a million that stands out is still there; the number of points is bounded."""
        curve = Curve()
        for step in range(1_000_000):
            curve.add(step, 9.0 if step == 123_457 else -9.0 if step == 777_777 else 0.5)
        points = curve.points()

        assert len(points) <= 2 * 200 + 2
        assert points[0] == (0, 0.5)
        assert points[-1] == (999_999, 0.5)
        assert (123_457, 9.0) in points
        assert curve.best() == (777_777, -9.0)
        assert curve.best(higher_is_better=True) == (123_457, 9.0)

    def test_joining_only_takes_away(self) -> None:
        """What a page has is enough when stretches are joined: nothing has to be sent again."""
        curve, before, widths = Curve(8), [], set()
        noise = random.Random(3)
        for step in range(500):
            curve.add(step, noise.random())
            after = curve.points()
            assert set(after) - set(before) == {after[-1]}
            before = after
            widths.add(curve.width)

        assert len(widths) > 4

    def test_values_that_are_not_finite_are_counted(self) -> None:
        """They have no place on an axis."""
        curve = Curve()
        curve.extend([(1, 1.0), (2, math.nan), (3, math.inf)])

        assert curve.points() == [(1, 1.0)]
        assert curve.not_finite == 2

    @given(
        values=st.lists(st.floats(-100, 100), min_size=1, max_size=300),
        back=st.integers(0, 300),
        stretches=st.integers(2, 40),
    )
    def test_after_a_resume_it_is_that_of_an_unbroken_run(self, values: list[float], back: int, stretches: int) -> None:
        """Steps since the checkpoint go and come again with the same values; the ends and the extremes agree."""
        unbroken, broken = Curve(stretches), Curve(stretches)
        unbroken.extend(enumerate(values))
        broken.extend(enumerate(values))
        broken.truncate(back)
        assert all(step <= back for step, _ in broken.points())
        broken.extend((step, value) for step, value in enumerate(values) if step > back)

        assert broken.points() == unbroken.points()

    def test_a_value_that_is_told_again_replaces_the_first(self) -> None:
        """As when a metric is logged twice at one step."""
        curve = Curve()
        curve.extend([(1, 1.0), (2, 2.0), (2, 5.0), (1, 7.0)])

        assert curve.points() == [(1, 7.0), (2, 5.0)]
        assert curve.last == (2, 5.0)


_rows = st.lists(st.tuples(st.integers(0, 30), st.sampled_from([0.5, 1.0, None])), max_size=60)
_html = st.lists(st.sampled_from(["<p>", "</p>", '<td style="x">', "step 4", "1.5", "ä€", "&lt;"]), max_size=40)


class TestIncrements:
    """What is told leads to what is meant, and is little."""

    @given(old=_rows, new=_rows)
    def test_rows(self, old: list[tuple[int, float]], new: list[tuple[int, float]]) -> None:
        """From any rows to any others."""
        change = rows_change(old, new)
        after = old if change is None else apply_rows_change(old, change)

        assert [list(row) for row in after] == [list(row) for row in new]

    @given(old=_html, new=_html)
    def test_html(self, old: list[str], new: list[str]) -> None:
        """From any page to any other."""
        change = html_change("".join(old), "".join(new))
        after = "".join(old) if change is None else apply_html_change("".join(old), change)

        assert after == "".join(new)

    def test_a_number_that_moved_is_all_that_is_told(self) -> None:
        """However long the page is."""
        page = "<table>" + "".join(f"<tr><td>{n}</td></tr>" for n in range(1000)) + "</table>"

        assert html_change(page, page.replace("<td>7</td>", "<td>8</td>")) == [[38, 1, "8"]]

    @pytest.mark.parametrize("stride", [2, 3])
    def test_a_thinned_curve_is_told_in_a_hundred_bytes(self, stride: int) -> None:
        """One bit a row."""
        old = [[step, 0.5, "loss"] for step in range(400)]
        change = rows_change(old, old[::stride])

        assert change is not None
        assert set(change) == {"keep"}
        assert len(change["keep"]) <= 68
