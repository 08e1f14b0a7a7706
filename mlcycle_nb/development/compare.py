"""Runs beside each other: what differs in their parameters, and how their metrics went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlcycle_nb.development.records import MetricRow, Run

if TYPE_CHECKING:
    from mlcycle_nb.development.diffs import OriginComparison


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Two or more runs.

    Attributes
    ----------
    runs : tuple of Run
    curves : mapping
        (run id, metric) -> its values by step.
    names : mapping
        Run id -> what it is called here, such as the version it made; its own name by default.
    origin : OriginComparison, optional
        What the runs came from.
    """

    runs: tuple[Run, ...]
    curves: Mapping[tuple[str, str], Sequence[MetricRow]]
    names: Mapping[str, str] = field(default_factory=dict)
    origin: OriginComparison | None = None

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
        called = {run.id: self.names.get(run.id, run.name) for run in self.runs}
        names = list(called.values())
        return {id: name if names.count(name) == 1 else f"{name} {id[:6]}" for id, name in called.items()}

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
            "labels": list(self.labels().values()),
            "parameters": {n: [run.parameters.get(n) for run in self.runs] for n in self.differing},
            "metrics": {n: [run.metrics.get(n) for run in self.runs] for n in self.metrics},
            **({} if self.origin is None else self.origin.to_dict()),
        }
