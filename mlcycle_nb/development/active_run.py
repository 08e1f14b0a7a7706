"""A run that is being written: buffers metrics and writes them in batches."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mlcycle_nb.development.records import MetricRow, Reproducible, Run, RunStatus
from mlcycle_nb.development.values import flat_parameters, metric_rows, read_rows
from mlcycle_nb.errors import InvalidInput, Refused

if TYPE_CHECKING:
    from mlcycle_nb.development.provenance import Provenance
    from mlcycle_nb.development.service import ModelDevelopmentManager

FLUSH_ROWS = 500
FLUSH_SECONDS = 1.0
CONFIG_ARTIFACT = "model_config.json"


class ActiveRun:
    """One run from start to end; made by `ModelDevelopmentManager.start_run`.

    As a context manager it ends ``finished``, or ``failed`` when the block raises, or ``killed`` when the block is
    interrupted. Metrics are written at most a second late, and always before the run is read or ended.
    """

    def __init__(self, manager: ModelDevelopmentManager, run_id: str, provenance: Provenance) -> None:
        self.id = run_id
        self.provenance = provenance
        self.ended = False
        self._manager = manager
        self._lock = threading.Lock()
        self._rows: list[MetricRow] = []
        self._first_unwritten = 0.0
        self._last_step = 0

    @property
    def reproducible(self) -> Reproducible:
        """Whether the notebook as it stands would give the run again, and if not, why."""
        reasons = self.provenance.not_reproducible
        return Reproducible(not reasons, reasons)

    # -- logging ---------------------------------------------------------------------------------------------

    def log_model_config(self, config: Mapping[str, Any]) -> None:
        """Record how the model is built: as ``model_config.json``, and as hyperparameters ``config.<key>``."""
        self._refuse_ended()
        flat = flat_parameters(config, prefix="config.")
        try:
            text = json.dumps(config, sort_keys=True, indent=1, default=str)
        except (TypeError, ValueError) as failure:
            raise InvalidInput(f"the model config cannot be written as JSON: {failure}") from failure
        self._manager.tracking.log(self.id, parameters=flat)
        self._manager.tracking.log_text(self.id, text, CONFIG_ARTIFACT)

    def log_hyperparameters(self, parameters: Mapping[str, Any]) -> None:
        """Record hyperparameters; nested ones as ``outer.inner``. A value once recorded cannot be changed."""
        self._refuse_ended()
        self._manager.tracking.log(self.id, parameters=flat_parameters(parameters))

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record metrics at `step`; the step after the last one by default."""
        self._refuse_ended()
        at = self._last_step + 1 if step is None else int(step)
        self._last_step = at
        self._add(metric_rows(metrics, step=at, time=self._manager.context.clock.now()))

    def log_metric_rows(self, rows: Iterable[MetricRow | Mapping[str, Any]]) -> None:
        """Record many values at once; the same row twice is one."""
        self._refuse_ended()
        self._add(read_rows(rows, now=self._manager.context.clock.now()))

    def log_artifacts(self, source: str | Path | Mapping[str, Any], artifact_path: str | None = None) -> None:
        """Record a file, a folder, or ``{"name.json": value}``: text as it is, anything else as JSON."""
        self._refuse_ended()
        if isinstance(source, Mapping):
            for name, value in source.items():
                text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, indent=1, default=str)
                self._manager.tracking.log_text(self.id, text, f"{artifact_path}/{name}" if artifact_path else name)
            return
        path = Path(source)
        if not path.exists():
            raise InvalidInput("there is no such file or folder", value=str(path), where="log_artifacts")
        self._manager.tracking.log_path(self.id, path, artifact_path)

    # -- end -------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what is buffered."""
        with self._lock:
            rows, self._rows = self._rows, []
        if rows:
            self._manager.tracking.log(self.id, metrics=rows)

    def end(self, status: RunStatus = "finished") -> Run:
        """End the run; ending it again changes nothing."""
        if not self.ended:
            self.flush()
            self._manager.end_run(self.id, status)
            self.ended = True
        return self._manager.run(self.id)

    @property
    def record(self) -> Run:
        """The run as MLflow holds it now."""
        self.flush()
        return self._manager.run(self.id)

    def __enter__(self) -> ActiveRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.end("finished")
        else:
            self.end("failed" if issubclass(kind, Exception) else "killed")

    def __repr__(self) -> str:
        return repr(self.record)

    # -- parts -----------------------------------------------------------------------------------------------

    def _add(self, rows: list[MetricRow]) -> None:
        now = self._manager.context.clock.monotonic()
        with self._lock:
            if not self._rows:
                self._first_unwritten = now
            self._rows += rows
            due = len(self._rows) >= FLUSH_ROWS or now - self._first_unwritten >= FLUSH_SECONDS
        if due:
            self.flush()

    def _refuse_ended(self) -> None:
        if self.ended:
            raise Refused(f"run {self.id[:8]} has ended", remedy="start another run")
