"""What running a run again has shown: metric by metric, the weights, and what was different around it."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mlcycle_nb.development.records import MetricRow
from mlcycle_nb.notebook.html import heading, paragraph, table, text_table

Verdict = Literal["reproduced", "differs", "cannot", "running"]
REPRODUCES_TAG = "mlcycle.reproduces"
VERDICT_TAG = "mlcycle.reproduction"
_HEADERS = ("metric", "values", "verdict", "largest difference")
_MEASURED = ("_seconds", "_ms", "_bytes", "_per_second", "seconds", "throughput")
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """One metric of both runs.

    Attributes
    ----------
    verdict : str
        ``equal`` bit for bit, ``differs``, or ``not compared`` for what a clock or the machine measured.
    largest : float
        Largest absolute difference at one step; infinite when one of them has no value there.
    """

    name: str
    values: int
    verdict: str
    largest: float = 0.0
    first_step: int | None = None  # at which they differ

    def row(self) -> tuple[str, str, str, str]:
        """Return it as cells of a table."""
        if self.verdict != "differs":
            return self.name, str(self.values), self.verdict, ""
        by = "one of them has no value" if math.isinf(self.largest) else f"{self.largest:.3g}"
        return self.name, str(self.values), "differs", f"{by}, first at step {self.first_step}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Reproduction:
    """A run that was run again.

    Attributes
    ----------
    verdict : {"reproduced", "differs", "cannot", "running"}
    why : str
        What differs, or why it cannot be run again.
    weights : str
        Whether the weights are equal, or that none were kept.
    packages, inputs, notes : tuple of str
        What differs around it: packages, inputs whose digest has changed, and other things worth knowing.
    """

    source: str  # run id
    run: str | None  # the new run's id
    verdict: Verdict
    why: str = ""
    metrics: tuple[MetricComparison, ...] = ()
    weights: str = ""
    packages: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    job: str = ""

    @property
    def reproduced(self) -> bool:
        """Whether all that was compared is equal."""
        return self.verdict == "reproduced"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    def __repr__(self) -> str:
        lines = [self._summary()]
        if self.metrics:
            lines.append(text_table(_HEADERS, [metric.row() for metric in self.metrics]))
        return "\n".join([*lines, *(f"  {fact}" for fact in self._facts())])

    def _repr_html_(self) -> str:
        parts = [heading(self._summary(), "completed" if self.reproduced else "failed")]
        if self.metrics:
            parts.append(table(_HEADERS, [metric.row() for metric in self.metrics]))
        return "".join([*parts, *map(paragraph, self._facts())])

    def _summary(self) -> str:
        again = "" if self.run is None else f" as {self.run[:8]}"
        return f"run {self.source[:8]} again{again}: {self.verdict}" + (f" ({self.why})" if self.why else "")

    def _facts(self) -> list[str]:
        facts = [f"weights: {self.weights}"] if self.weights else []
        if self.packages:
            more = f" and {len(self.packages) - _SHOWN} more" if len(self.packages) > _SHOWN else ""
            facts.append(f"packages differ: {', '.join(self.packages[:_SHOWN])}{more}")
        if self.inputs:
            facts.append(f"inputs have changed since: {', '.join(self.inputs)}")
        return [*facts, *(f"note: {note}" for note in self.notes)]


def compare_metrics(
    before: Mapping[str, Sequence[MetricRow]], after: Mapping[str, Sequence[MetricRow]]
) -> tuple[MetricComparison, ...]:
    """Compare the values of all metrics of two runs, step by step."""
    return tuple(_compare(name, before.get(name, ()), after.get(name, ())) for name in sorted({*before, *after}))


def judge(metrics: Sequence[MetricComparison], weights_equal: bool | None) -> tuple[Verdict, str]:
    """Return the verdict and, unless all is equal, what is not."""
    unequal = [metric.name for metric in metrics if metric.verdict == "differs"]
    compared = [metric for metric in metrics if metric.verdict == "equal"]
    if unequal or weights_equal is False:
        named = (
            [f"{len(unequal)} of {len(unequal) + len(compared)} metrics: {', '.join(unequal[:5])}"] if unequal else []
        )
        return "differs", "; ".join([*named, *(["the weights"] if weights_equal is False else [])])
    if not compared and weights_equal is None:
        return "cannot", "neither run has metrics or weights that could be compared"
    return "reproduced", ""


def _compare(name: str, before: Sequence[MetricRow], after: Sequence[MetricRow]) -> MetricComparison:
    count = max(len(before), len(after))
    if name.endswith(_MEASURED):
        return MetricComparison(name, count, "not compared")
    olds, news = _by_step(before), _by_step(after)
    largest, first = 0.0, None
    for step in sorted(olds.keys() | news.keys()):
        old, new = olds.get(step, ()), news.get(step, ())
        if [_bits(value) for value in old] == [_bits(value) for value in new]:
            continue
        first = step if first is None else first
        if len(old) != len(new):
            largest = math.inf
        else:
            apart = [abs(a - b) for a, b in zip(old, new, strict=True)]
            largest = max(largest, *(math.inf if math.isnan(value) else value for value in apart))
    return MetricComparison(name, count, "equal" if first is None else "differs", largest, first)


def _by_step(rows: Sequence[MetricRow]) -> dict[int, tuple[float, ...]]:
    found: dict[int, tuple[float, ...]] = {}
    for row in rows:
        found[row.step] = (*found.get(row.step, ()), row.value)
    return found


def _bits(value: float) -> bytes:
    return b"nan" if math.isnan(value) else struct.pack("<d", value)
