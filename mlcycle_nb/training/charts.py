"""Training curves: progress in, one chart for each metric out, training and validation together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mlcycle_nb.notebook.charts import Line, line_chart
from mlcycle_nb.notebook.html import BLUE, GREEN, RED, SKY
from mlcycle_nb.training.progress import Progress

MOST_CHARTS = 4
WIDTH = 320  # two beside each other in a page of 800 pixels and more
_SIDE = re.compile(r"^(train|training|val|valid|validation|eval|test)_(?=.)")
_SIDES = {"train": "training", "valid": "validation", "val": "validation", "eval": "evaluation"}
_NOT_DRAWN = frozenset({"lr"})


def families(progress: Progress) -> dict[str, list[str]]:
    """Return the metrics by what they measure: ``loss`` of training and of validation belong into one chart."""
    found: dict[str, list[str]] = {}
    for name in ["loss", *sorted(progress.curves)]:
        if name in _NOT_DRAWN or (name == "loss" and not progress.loss_curve()):
            continue
        members = found.setdefault(_SIDE.sub("", name), [])
        if name not in members:
            members.append(name)
    return found


def metric_charts(progress: Progress) -> Sequence[Any]:
    """Return a chart for each of the first metrics, the loss before all."""
    drawn = families(progress)
    first = sorted(drawn, key=lambda family: (family != "loss", not progress.best_name.endswith(family), family))
    return [_family_chart(family, drawn[family], progress) for family in first[:MOST_CHARTS]]


def undrawn(progress: Progress) -> list[str]:
    """Return the metrics for which there is no chart."""
    drawn = families(progress)
    first = sorted(drawn, key=lambda family: (family != "loss", not progress.best_name.endswith(family), family))
    return [name for family in first[MOST_CHARTS:] for name in drawn[family]]


def _family_chart(family: str, names: Sequence[str], progress: Progress) -> Any:
    lines: dict[str, Line] = {}
    for name in names:
        points = progress.loss_curve() if name == "loss" else progress.curve(name)
        best = progress.best_point() if name == progress.best_name else None
        label, colour, dashed = _look(name)
        lines[label] = Line(points, colour, dashed, best)
    return line_chart(
        lines,
        title=family,
        y_title=family,
        x_title="optimizer step",
        breaks=progress.resumed,
        best_is_low=not progress.higher_is_better,
        width=WIDTH,
    )


def _look(name: str) -> tuple[str, str, bool]:
    found = _SIDE.match(name)
    if found is None:
        return ("training" if name == "loss" else name), BLUE, False
    side = _SIDES.get(found[1], found[1])
    if side == "training":
        return "training, epoch mean", SKY, True
    return side, RED if side == "validation" else GREEN, False
