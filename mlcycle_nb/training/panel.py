"""The panel of a training job: progress, curves, checkpoints and recoveries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlcycle_nb.notebook.html import Markup, escape, heading, number, paragraph, table
from mlcycle_nb.notebook.panel import Action, Panel
from mlcycle_nb.references import format_duration
from mlcycle_nb.training.charts import curve_chart
from mlcycle_nb.training.progress import Progress
from mlcycle_nb.training.records import TrainingJob

if TYPE_CHECKING:
    from mlcycle_nb.training.service import TrainingManager

_BAR_CELLS = 24
_NOTES = 5


@dataclass(frozen=True, slots=True)
class TrainingState:
    """One look at a job."""

    job: TrainingJob
    progress: Progress

    @property
    def share(self) -> float | None:
        """Part of the steps that are done, or None when the total is unknown."""
        if self.job.phase == "finished":
            return 1.0
        total = self.progress.total_steps
        return min(1.0, self.progress.step / total) if total else None

    @property
    def word(self) -> str:
        """The phase, as badges know it."""
        stopping = self.job.stop_requested_at is not None and self.job.active
        return {"finished": "completed", "queued": "waiting"}.get(
            self.job.phase, "stopping" if stopping else self.job.phase
        )


class TrainingPanel(Panel[TrainingState]):
    """Shows one job; made again from its id in any kernel."""

    def __init__(self, training: TrainingManager, job: str) -> None:
        super().__init__()
        self._training = training
        self._job = job
        self._reader = training.progress(job)

    def title(self) -> str:
        """Return the job's name."""
        return f"training {self._job}"

    def snapshot(self) -> TrainingState:
        """Read the record, then the events: what ended is complete."""
        job = self._training.job(self._job)
        return TrainingState(job, self._reader.read())

    def finished(self, state: TrainingState) -> bool:
        """Return whether the job has ended."""
        return not state.job.active

    # -- faces -----------------------------------------------------------------------------------------------

    def text(self, state: TrainingState) -> str:
        """Return a few plain lines."""
        lines = [f"training {state.job.id}: {_phase(state)}", f"  {_bar(state)}"]
        lines += [f"  {name}: {value}" for name, value in _facts(state)]
        lines += [f"  note: {note}" for note in _notes(state)]
        if state.job.failure is not None:
            lines.append(f"  error: {state.job.failure}")
        return "\n".join(lines)

    def html(self, state: TrainingState) -> str:
        """Return the same as a small table."""
        share = state.share
        percent = 0 if share is None else round(100 * share)
        bar = Markup(
            f'<div role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}" '
            'style="background:#8884;height:8px;width:420px;max-width:100%;border-radius:4px">'
            f'<div style="background:#0072B2;height:8px;width:{percent}%;border-radius:4px"></div></div>'
        )
        parts = [heading(f"training {state.job.id}", state.word), bar, table(("", ""), _facts(state))]
        parts += [paragraph(note) for note in _notes(state)]
        if state.job.failure is not None:
            failure = escape(state.job.failure)
            parts.append(Markup(f'<div role="alert" style="color:#D55E00;font-weight:600">{failure}</div>'))
        return "".join(parts)

    def charts(self, state: TrainingState) -> Sequence[Any]:
        """Return the loss chart, and one of the other metrics."""
        progress = state.progress
        losses = {"loss": progress.loss_curve()}
        if "val_loss" in progress.curves:
            losses["val_loss"] = progress.curve("val_loss")
        charts = []
        if any(losses.values()):
            charts.append(curve_chart(losses, title="loss", y_title="loss", marks=progress.resumed))
        shown = [name for name in progress.curves if not name.endswith("loss") and name != "lr"]
        if shown:
            metrics = {name: progress.curve(name) for name in sorted(shown)[:6]}
            charts.append(curve_chart(metrics, title="metrics", y_title="value", marks=progress.resumed))
        return charts

    def actions(self, state: TrainingState) -> Sequence[Action]:
        """Return a stop button while it runs."""
        if not state.job.active or state.job.stop_requested_at is not None:
            return ()
        return (Action("Stop", lambda: self._training.stop(self._job), "danger"),)


def _phase(state: TrainingState) -> str:
    job = state.job
    if job.phase == "restarting":
        return f"recovering ({job.restarts[-1].why})"
    if job.stop_requested_at is not None and job.active:
        return "stopping, after a checkpoint"
    return job.phase


def _bar(state: TrainingState) -> str:
    progress, share = state.progress, state.share
    filled = 0 if share is None else round(_BAR_CELLS * share)
    steps = f"step {progress.step}" + (f" of {progress.total_steps}" if progress.total_steps else "")
    epochs = progress.epochs or state.job.epochs
    done = epochs if state.job.phase == "finished" and not progress.ended_early else min(progress.epoch + 1, epochs)
    return f"[{'#' * filled}{'.' * (_BAR_CELLS - filled)}] {steps}, epoch {done} of {epochs}"


def _facts(state: TrainingState) -> list[tuple[str, str]]:
    job, progress = state.job, state.progress
    facts = []
    latest = progress.latest()
    metrics = [f"{name} {_value(value)}" for name, value in sorted(latest.items()) if name != "lr"]
    if metrics:
        facts.append(("metrics", ", ".join(metrics)))
    if progress.world is not None:
        plural = "process" if progress.world == 1 else "processes"
        facts.append(("world", f"{progress.world} {plural} on {progress.device}"))
    if job.active:
        facts += _pace(progress)
    best = progress.best()
    if progress.checkpoints:
        newest = progress.checkpoints[-1]
        text = f"{len(progress.checkpoints)} taken, newest at step {newest['step']}"
        if best is not None and progress.best_name:
            text += f", best at step {best['step']} ({progress.best_name} {_value(best['metric'])})"
        facts.append(("checkpoints", text))
    if job.restarts:
        steps = ", ".join("the start" if r.from_step is None else f"step {r.from_step}" for r in job.restarts)
        facts.append(("recoveries", f"{len(job.restarts)} (from {steps})"))
    if progress.ended_early:
        facts.append(("ended early", progress.ended_early))
    if progress.memory_bytes:
        per_rank = ", ".join(f"{size / 1e6:.0f}" for _, size in sorted(progress.memory_bytes.items()))
        facts.append(("memory", f"{per_rank} MB"))
    if job.registered:
        facts.append(("registered", job.registered))
    return facts


def _pace(progress: Progress) -> list[tuple[str, str]]:
    from datetime import timedelta

    facts = []
    if progress.throughput is not None and progress.throughput > 0:
        facts.append(("throughput", f"{number(float(round(progress.throughput)))} rows/s"))
    if progress.eta_seconds is not None:
        facts.append(("time left", format_duration(timedelta(seconds=round(progress.eta_seconds)))))
    return facts


def _notes(state: TrainingState) -> list[str]:
    notes = state.progress.notes[-_NOTES:]
    return [*notes, f"not registered: {state.job.registration_error}"] if state.job.registration_error else notes


def _value(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else str(value)
