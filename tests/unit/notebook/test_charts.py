"""What charts say at their edges, as they are drawn."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta

import altair as alt
import pytest
import vl_convert

from mlcycle_nb.notebook.charts import styled, time_axis


@pytest.mark.parametrize(
    ("seconds", "label"),
    [(2, r"19:29:0\d(\.\d{3})?"), (60, r"19:29:\d\d|19:30"), (3600, r"(19|20):\d\d"), (20 * 3600, r"\d\d:00|Tue 24")],
)
def test_times_are_on_a_clock_of_24_hours(seconds: float, label: str) -> None:
    begin = datetime(2026, 11, 23, 19, 29, 3)
    values = [{"time": (begin + timedelta(seconds=seconds * n / 20)).isoformat(), "value": n} for n in range(21)]
    chart = styled(alt.Chart(alt.Data(values=values)).mark_line().encode(x=time_axis(), y="value:Q"))
    svg = vl_convert.vegalite_to_svg(json.dumps(chart.to_dict()))
    drawn = [text for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg) if not re.fullmatch(r"\d+|value", text)]

    assert drawn
    assert [text for text in drawn if not re.fullmatch(label, text)] == []
