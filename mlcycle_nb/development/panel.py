"""Panels of development: runs, a comparison of runs, the versions of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlcycle_nb.development.compare import RunComparison
from mlcycle_nb.development.records import ModelVersion, Run
from mlcycle_nb.notebook.html import badge, heading, table, text_table
from mlcycle_nb.notebook.panel import Panel

if TYPE_CHECKING:
    from mlcycle_nb.development.service import ModelDevelopmentManager

_RUN_HEADERS = ("run", "id", "experiment", "status", "started", "reproducible", "metrics")
_VERSION_HEADERS = ("version", "aliases", "package", "format", "run", "registered")
METRICS_SHOWN = 6


class RunsPanel(Panel[list[Run]]):
    """The newest runs."""

    def __init__(self, manager: ModelDevelopmentManager, experiment: str | None = None, limit: int = 20) -> None:
        super().__init__()
        self._manager = manager
        self._experiment = experiment
        self._limit = limit

    def title(self) -> str:
        return "runs" if self._experiment is None else f"runs of {self._experiment}"

    def snapshot(self) -> list[Run]:
        return self._manager.runs(self._experiment, limit=self._limit)

    def finished(self, state: list[Run]) -> bool:
        return all(run.status != "running" for run in state)

    def text(self, state: list[Run]) -> str:
        return text_table(_RUN_HEADERS, [_run_row(run) for run in state]) if state else f"{self.title()}: none yet"

    def html(self, state: list[Run]) -> str:
        rows = [(*row[:3], badge(row[3]), *row[4:]) for row in map(_run_row, state)]
        return heading(self.title()) + table(_RUN_HEADERS, rows)


class ComparisonPanel(Panel[RunComparison]):
    """Two or more runs beside each other."""

    def __init__(self, manager: ModelDevelopmentManager, run_ids: Sequence[str]) -> None:
        super().__init__()
        self._manager = manager
        self._run_ids = tuple(run_ids)

    def title(self) -> str:
        return "comparison of runs"

    def snapshot(self) -> RunComparison:
        return self._manager.compare(self._run_ids)

    def finished(self, state: RunComparison) -> bool:
        return all(run.status != "running" for run in state.runs)

    def text(self, state: RunComparison) -> str:
        return text_table(self._headers(state), state.rows())

    def html(self, state: RunComparison) -> str:
        return heading(self.title()) + table(self._headers(state), state.rows())

    def charts(self, state: RunComparison) -> Sequence[Any]:
        from mlcycle_nb.development.charts import metric_curves, parallel_coordinates

        curves = [metric_curves(state, metric) for metric in state.metrics[:METRICS_SHOWN]]
        parallel = parallel_coordinates(state)
        return curves if parallel is None else [*curves, parallel]

    def _headers(self, state: RunComparison) -> tuple[str, ...]:
        labels = state.labels()
        return ("kind", "name", *(labels[run.id] for run in state.runs))


class ModelPanel(Panel[list[ModelVersion]]):
    """The versions of one model, or the newest version of each model."""

    def __init__(self, manager: ModelDevelopmentManager, model: str | None = None) -> None:
        super().__init__()
        self._manager = manager
        self._model = model

    def title(self) -> str:
        return "models" if self._model is None else f"model {self._model}"

    def snapshot(self) -> list[ModelVersion]:
        names = self._manager.models() if self._model is None else [self._model]
        return [version for name in names for version in self._manager.versions(name)]

    def text(self, state: list[ModelVersion]) -> str:
        if not state:
            return f"{self.title()}: no versions yet"
        return text_table(_VERSION_HEADERS, [_version_row(version) for version in state])

    def html(self, state: list[ModelVersion]) -> str:
        return heading(self.title()) + table(_VERSION_HEADERS, [_version_row(version) for version in state])


def _run_row(run: Run) -> tuple[str, ...]:
    metrics = " ".join(f"{name}={value:.4g}" for name, value in sorted(run.metrics.items())[:METRICS_SHOWN])
    return run.name, run.id[:8], run.experiment, run.status, f"{run.started_at:%Y-%m-%d %H:%M}", _again(run), metrics


def _again(run: Run) -> str:
    if "mlcycle.reproducible" not in run.tags:
        return "-"
    yes, reasons = run.reproducible
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return "yes" if yes else f"no: {reasons[0]}{more}" if reasons else "no"


def _version_row(version: ModelVersion) -> tuple[str, ...]:
    return (
        version.reference,
        ", ".join(version.aliases) or "-",
        version.package_digest[:19],
        version.tags.get("mlcycle.format", ""),
        (version.run_id or "-")[:8],
        f"{version.created_at:%Y-%m-%d %H:%M}",
    )
