"""The panel of one rollout: weights, traffic, verdicts with their reasons, events, and the safety buttons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlcycle_nb.deployment.charts import error_points, series_chart, verdict_chart, weight_chart
from mlcycle_nb.deployment.records import Rollout
from mlcycle_nb.deployment.status import DeploymentStatus
from mlcycle_nb.notebook.html import badge, figure, heading, paragraph, table, text_table
from mlcycle_nb.notebook.panel import Action, Panel
from mlcycle_nb.store.record import parse_time

if TYPE_CHECKING:
    from mlcycle_nb.deployment.service import ModelDeploymentManager

_WORDS = {"preparing": "waiting", "queued": "waiting", "progressing": "running", "promoting": "running"}
_TRAFFIC = ("version", "planned", "in force", "requests", "errors", "p50 ms", "p95 ms", "replicas")
_VERDICTS = ("metric", "verdict", "estimate", "reason")
EVENTS_SHOWN = 8
IDLE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutState:
    """One look at a rollout."""

    rollout: Rollout
    status: DeploymentStatus
    metrics: tuple[Mapping[str, Any], ...]
    step_requests: int
    points: tuple[Mapping[str, Any], ...]
    verdicts: tuple[Mapping[str, Any], ...]
    problem: str
    idle_seconds: float | None  # since the new version's last request; None before the first
    now: datetime


class RolloutPanel(Panel[RolloutState]):
    """Shows one rollout; made again from its id in any kernel."""

    def __init__(self, deployment: ModelDeploymentManager, rollout: str) -> None:
        super().__init__()
        self._deployment = deployment
        self._id = rollout

    def title(self) -> str:
        """Return the rollout's name."""
        return f"rollout {self._id}"

    def snapshot(self) -> RolloutState:
        """Read the rollout, its service, and what was measured since it began."""
        store = self._deployment.context.store
        record = store.get(Rollout, self._id)
        seen = store.observed(Rollout, self._id)
        judgement = seen.get("judgement") or {}
        points = store.measurements(f"service:{record.service_id}", kind="traffic", since=record.created_at, limit=2000)
        if record.ended:
            points = [point for point in points if point["time"] <= record.phase_since]
        return RolloutState(
            rollout=record,
            status=self._deployment.status(record.model, record.environment),
            metrics=tuple(judgement.get("metrics", ())),
            step_requests=int(judgement.get("step_requests", 0)),
            points=tuple(point for point in points if point["version"] in (record.base, record.target)),
            verdicts=tuple(store.measurements(f"rollout:{self._id}", kind="verdict", limit=3000)),
            problem=str(seen.get("error", "")),
            idle_seconds=_seconds_since(judgement.get("last_request")),
            now=record.phase_since if record.ended else self._deployment.context.clock.now(),
        )

    def finished(self, state: RolloutState) -> bool:
        """Return whether the rollout has ended."""
        return not state.rollout.active

    # -- faces -----------------------------------------------------------------------------------------------

    def text(self, state: RolloutState) -> str:
        """Return a few plain lines."""
        record = state.rollout
        lines = [f"{record.strategy} of {record.reference} to {record.environment}: {record.place}"]
        lines += [f"  {line}" for line in self._facts(state)]
        lines += _indented(text_table(_TRAFFIC, self._traffic(state)))
        if state.metrics:
            lines += _indented(text_table(_VERDICTS, self._verdicts(state)))
        return "\n".join(lines)

    def html(self, state: RolloutState) -> str:
        """Return the same as tables, with the last events."""
        record = state.rollout
        word = _WORDS.get(record.phase, record.phase)
        title = heading(f"{record.strategy} of {record.reference} to {record.environment}", word)
        facts = "".join(paragraph(line) for line in (record.place, *self._facts(state)))
        verdicts = [(name, badge(outcome), *rest) for name, outcome, *rest in self._verdicts(state)]
        events = [(f"{event.time:%H:%M:%S}", event.text) for event in record.history[-EVENTS_SHOWN:]]
        parts = [title, facts, table(_TRAFFIC, self._traffic(state), caption="traffic")]
        if verdicts:
            parts.append(table(_VERDICTS, verdicts, caption="analysis"))
        parts.append(table(("time", "event"), events, caption="events"))
        return "".join(parts)

    def charts(self, state: RolloutState) -> Sequence[Any]:
        """Return weights, latency, errors and disagreement over time."""
        if not state.points:
            return ()
        charts = [
            weight_chart(state.rollout, state.points, state.now),
            series_chart(state.points, "p95_ms", title="latency, 95 of 100 answers", y_title="ms"),
            series_chart(
                error_points(state.points), "error_percent", title="errors", y_title="% of requests", at_least=1.0
            ),
        ]
        if any(row["name"] == "disagreement" and row["estimate"] is not None for row in state.verdicts):
            bound = state.rollout.policy.max_disagreement
            charts.append(
                verdict_chart(state.verdicts, "disagreement", bound, title="disagreement with stable (line: tolerated)")
            )
        return charts

    def actions(self, state: RolloutState) -> Sequence[Action]:
        """Return the verbs that make sense now."""
        verbs, phase, id = self._deployment, state.rollout.phase, self._id
        if state.rollout.ended or phase == "aborting":
            return ()
        abort = Action("Abort", lambda: verbs.abort(id), "danger")
        promote = Action("Promote", lambda: verbs.promote(id), "success")
        if phase == "paused":
            return (promote, Action("Resume", lambda: verbs.resume(id)), abort)
        pause = Action("Pause", lambda: verbs.pause(id), "warning")
        return {"progressing": (promote, pause, abort), "preparing": (pause, abort)}.get(phase, (abort,))

    # -- parts -----------------------------------------------------------------------------------------------

    def _facts(self, state: RolloutState) -> list[str]:
        record = state.rollout
        facts = []
        if record.phase == "progressing":
            facts.append(f"{state.step_requests} of {record.policy.min_requests} requests at this step")
        if record.phase == "progressing" and state.idle_seconds is not None and state.idle_seconds > IDLE_SECONDS:
            idle = f"{state.idle_seconds:.0f} s"
            facts.append(f"no request to the new version for {idle}: the verdicts are those of then, and it holds")
        if record.reason:
            facts.append(f"reason: {record.reason}")
        if state.problem:
            facts.append(f"trouble: {state.problem}")
        if record.ended:
            stable = state.status.stable
            facts.append("no version is stable" if stable is None else f"stable: {record.model}/{stable}")
        return facts

    def _traffic(self, state: RolloutState) -> list[tuple[Any, ...]]:
        record, rows = state.rollout, []
        for revision in state.status.revisions:
            if revision.version not in (record.base, record.target):
                continue
            own = [point for point in state.points if point["version"] == revision.version]
            rows.append(
                (
                    revision.version,
                    f"{revision.planned:g}%",
                    "n/a" if revision.in_force is None else f"{revision.in_force:g}%",
                    sum(int(point["requests"]) for point in own),
                    sum(int(point["errors"]) for point in own),
                    figure(_middle(own, "p50_ms")),
                    figure(_middle(own, "p95_ms")),
                    f"{revision.ready}/{revision.replicas}",
                )
            )
        return rows

    def _verdicts(self, state: RolloutState) -> list[tuple[Any, ...]]:
        return [
            (
                _shown_name(metric),
                metric["outcome"],
                figure(metric["estimate"], low=metric["low"], high=metric["high"]),
                metric["reason"],
            )
            for metric in state.metrics
        ]


def _seconds_since(moment: str | None) -> float | None:
    # The gateway stamps its log by the machine's clock, whatever the workspace's clock says.
    return None if moment is None else (datetime.now(UTC) - parse_time(moment)).total_seconds()


def _shown_name(metric: Mapping[str, Any]) -> str:
    mode = metric.get("mode", "required")
    return str(metric["name"]) if mode == "required" else f"{metric['name']} ({mode})"


def _middle(points: Sequence[Mapping[str, Any]], field: str) -> float | None:
    """Return the typical second's quantile: the median over measurements."""
    values = sorted(float(point[field]) for point in points if point.get(field) is not None)
    return values[len(values) // 2] if values else None


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]
