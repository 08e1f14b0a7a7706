"""Panels of development: runs, a comparison of runs, the versions of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlcycle_nb.development.compare import RunComparison
from mlcycle_nb.development.records import ModelVersion, Run
from mlcycle_nb.notebook.html import GREEN, RED, badge, escape, heading, table, text_table
from mlcycle_nb.notebook.panel import Panel

if TYPE_CHECKING:
    from mlcycle_nb.development.service import ModelDevelopmentManager

_RUN_HEADERS = ("run", "id", "experiment", "status", "started", "reproducible", "metrics")
_VERSION_HEADERS = ("version", "aliases", "package", "format", "run", "registered")
METRICS_SHOWN = 6
PACKAGES_SHOWN = 30


class RunsPanel(Panel[list[Run]]):
    """Runs, newest first or sorted."""

    def __init__(
        self,
        manager: ModelDevelopmentManager,
        experiment: str | None = None,
        limit: int = 20,
        *,
        where: str | None = None,
        sort: str | None = None,
        ascending: bool = False,
    ) -> None:
        super().__init__()
        self._manager = manager
        self._experiment = experiment
        self._limit = limit
        self._where, self._sort, self._ascending = where, sort, ascending

    def title(self) -> str:
        named = "runs" if self._experiment is None else f"runs of {self._experiment}"
        where = "" if self._where is None else f" where {self._where}"
        order = "least" if self._ascending else "greatest"
        return named + where + ("" if self._sort is None else f", by {self._sort}, the {order} first")

    def snapshot(self) -> list[Run]:
        return self._manager.runs(
            self._experiment, limit=self._limit, where=self._where, sort=self._sort, ascending=self._ascending
        )

    def to_frame(self) -> Any:
        """Return the runs as a pandas data frame: one row a run, columns ``params.*``, ``metrics.*`` and facts."""
        import pandas as pd

        rows = [
            {
                "run": run.name,
                "id": run.id,
                "experiment": run.experiment,
                "status": run.status,
                "started_at": run.started_at,
                "seconds": run.duration_seconds,
                "reproducible": run.reproducible.yes if "mlcycle.reproducible" in run.tags else None,
                **{f"params.{name}": value for name, value in sorted(run.parameters.items())},
                **{f"metrics.{name}": value for name, value in sorted(run.metrics.items())},
            }
            for run in self.snapshot()
        ]
        facts = ["run", "id", "experiment", "status", "started_at", "seconds", "reproducible"]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=facts)

    def finished(self, state: list[Run]) -> bool:
        return all(run.status != "running" for run in state)

    def text(self, state: list[Run]) -> str:
        nothing = "none fits" if self._where else "none yet"
        return text_table(_RUN_HEADERS, [_run_row(run) for run in state]) if state else f"{self.title()}: {nothing}"

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
        rows = [*state.rows(), *_origin_rows(state)]
        parts = [text_table(self._headers(state), rows) if rows else "nothing differs, and nothing was measured"]
        parts += ["\n" + diff for _, diff in _cell_diffs(state)]
        return "\n".join(parts)

    def html(self, state: RunComparison) -> str:
        rows = [*state.rows(), *_origin_rows(state)]
        parts: list[str] = [heading(self.title()), table(self._headers(state), rows)]
        for label, diff in _cell_diffs(state):
            summary = f"cell of {label}, as it differs from the first"
            parts.append(f"<details><summary>{escape(summary)}</summary><pre>{_coloured(diff)}</pre></details>")
        return "".join(parts)

    def charts(self, state: RunComparison) -> Sequence[Any]:
        from mlcycle_nb.development.charts import metric_curves, parallel_coordinates

        curved = [name for name in state.metrics if any(len(state.curves.get((run.id, name), ())) > 1
                  for run in state.runs)]  # fmt: skip
        curves = [metric_curves(state, metric) for metric in curved[:METRICS_SHOWN]]
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


def _origin_rows(state: RunComparison) -> list[tuple[str, ...]]:
    if state.origin is None:
        return []
    packages = state.origin.packages()
    more = len(packages) - PACKAGES_SHOWN
    rows = [*state.origin.rows(), *packages[:PACKAGES_SHOWN]]
    if more > 0:
        rows.append(("package", f"and {more} more", *("" for _ in state.runs)))
    return rows


def _cell_diffs(state: RunComparison) -> list[tuple[str, str]]:
    return [] if state.origin is None else state.origin.cell_diffs()


def _coloured(diff: str) -> str:
    lines = []
    for line in diff.split("\n"):
        colour = GREEN if line.startswith("+") else RED if line.startswith("-") else ""
        lines.append(f'<span style="color:{colour}">{escape(line)}</span>' if colour else escape(line))
    return "\n".join(lines)


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
