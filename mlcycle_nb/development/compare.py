"""Runs beside each other: what differs in their parameters, and how their metrics went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlcycle_nb.development.records import MetricRow, Run


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Two or more runs.

    Attributes
    ----------
    runs : tuple of Run
    curves : mapping
        (run id, metric) -> its values by step.
    """

    runs: tuple[Run, ...]
    curves: Mapping[tuple[str, str], Sequence[MetricRow]]

    @property
    def differing(self) -> tuple[str, ...]:
        """Names of parameters whose values are not the same in all runs, sorted."""
        names = {name for run in self.runs for name in run.parameters}
        return tuple(sorted(n for n in names if len({run.parameters.get(n) for run in self.runs}) > 1))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics, sorted."""
        return tuple(sorted({name for run in self.runs for name in run.metrics}))

    def labels(self) -> dict[str, str]:
        """Return run id -> a name that is unique among these runs."""
        names = [run.name for run in self.runs]
        return {run.id: run.name if names.count(run.name) == 1 else f"{run.name} {run.id[:6]}" for run in self.runs}

    def rows(self) -> list[tuple[str, ...]]:
        """Return one line a parameter or metric: its kind, its name, its value in each run."""
        lines = [("parameter", n, *(run.parameters.get(n, "-") for run in self.runs)) for n in self.differing]
        for name in self.metrics:
            values = (f"{run.metrics[name]:.5g}" if name in run.metrics else "-" for run in self.runs)
            lines.append(("metric", name, *values))
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "runs": [run.id for run in self.runs],
            "parameters": {n: [run.parameters.get(n) for run in self.runs] for n in self.differing},
            "metrics": {n: [run.metrics.get(n) for run in self.runs] for n in self.metrics},
        }
