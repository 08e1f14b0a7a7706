"""The drift panel: how the watching goes, what drifted, how good the answers were, which alerts are open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlcycle_nb.monitoring import charts
from mlcycle_nb.monitoring.health import Health
from mlcycle_nb.monitoring.records import Alert, Finding, MonitoringMetric, Performance, WindowVerdict
from mlcycle_nb.monitoring.status import MonitorStatus
from mlcycle_nb.notebook.html import badge, figure, heading, paragraph, span, table, text_table
from mlcycle_nb.notebook.panel import Action, Panel

if TYPE_CHECKING:
    from mlcycle_nb.monitoring.service import ModelMonitor

_SHOWN = 8
_SERIES = ("request_rate", "error_rate", "latency_p95", "cpu", "memory")
_METRIC_HEADERS = ("version", "requests/s", "errors", "latency p95", "CPU", "memory")
_FINDING_HEADERS = ("column", "state", "effect", "bound", "adjusted p", "detector", "why")
_ALERT_HEADERS = ("alert", "kind", "phase", "since", "what")
_PERFORMANCE_HEADERS = ("version", "metric", "value", "reference", "labels", "coverage", "lag", "verdict", "why")


@dataclass(frozen=True, slots=True)
class DriftState:
    """What the panel shows."""

    status: MonitorStatus
    windows: tuple[WindowVerdict, ...]
    metrics: tuple[MonitoringMetric, ...]
    performance: tuple[Performance, ...]
    alerts: tuple[Alert, ...]

    @property
    def told(self) -> WindowVerdict | None:
        """The window whose findings are shown: the newest with drift, else the newest."""
        drifted = tuple(window for window in self.windows if window.outcome == "failed")
        found = drifted or self.windows
        return found[-1] if found else None


class DriftPanel(Panel[DriftState]):
    """Drift of one monitored service.

    Parameters
    ----------
    service : ModelMonitor
    model, environment : str
        Which monitor.
    """

    def __init__(self, service: ModelMonitor, model: str, environment: str) -> None:
        super().__init__()
        self._service = service
        self._model = model
        self._environment = environment

    def title(self) -> str:
        return f"Monitoring of {self._model} in {self._environment}"

    def snapshot(self) -> DriftState:
        service, model, environment = self._service, self._model, self._environment
        return DriftState(
            status=service.status(model, environment=environment),
            windows=tuple(service.windows(model, environment=environment)),
            metrics=tuple(service.metrics(model, environment=environment)),
            performance=tuple(service.performance(model, environment=environment)),
            alerts=tuple(service.alerts(model, environment=environment, limit=20)),
        )

    def finished(self, state: DriftState) -> bool:
        return state.status.monitor.phase == "stopped"

    def actions(self, state: DriftState) -> Sequence[Action]:
        found = [
            Action(f"Acknowledge {alert.id}", lambda one=alert: self._service.acknowledge(one.id))  # type: ignore[misc]
            for alert in state.alerts
            if alert.phase == "firing"
        ]
        if state.status.monitor.phase == "running":
            stop = Action(
                "Stop monitoring",
                lambda: self._service.stop_monitoring(self._model, environment=self._environment),
                "danger",
            )
            found.append(stop)
        return found

    def charts(self, state: DriftState) -> Sequence[Any]:
        drawn: list[Any] = []
        if state.windows:
            drawn.append(charts.drift_heat_map(state.windows))
        if state.told is not None:
            drawn += [charts.distribution(one) for one in state.told.shares]
        estimated = charts.accuracy(state.windows, state.performance)
        if estimated is not None:
            drawn.append(estimated)
        series = [charts.metric_series(state.metrics, metric) for metric in _SERIES]
        if not any(series[:3]):
            series = [charts.window_latency(state.windows), *series[3:]]
        return [*drawn, *(one for one in series if one is not None)]

    def state_word(self, state: DriftState) -> str:
        """Return the word beside the title: what needs somebody first, else how the watching itself goes."""
        health = state.status.health
        firing = any(alert.phase == "firing" for alert in state.alerts)
        return "firing" if firing and health is Health.HEALTHY else str(health)

    def lines(self, state: DriftState) -> list[str]:
        """Return what is said above the tables."""
        return _lines(state)

    # -- words -----------------------------------------------------------------------------------------------

    def text(self, state: DriftState) -> str:
        lines = [self.title(), *self.lines(state)]
        if state.told is not None:
            lines += ["", _window_line(state.told), text_table(_FINDING_HEADERS, _finding_rows(state.told))]
        if state.metrics:
            lines += ["", text_table(_METRIC_HEADERS, _metric_rows(state.metrics))]
        if state.performance:
            lines += ["", text_table(_PERFORMANCE_HEADERS, _performance_rows(state.performance))]
        if state.alerts:
            lines += ["", text_table(_ALERT_HEADERS, _alert_rows(state.alerts))]
        return "\n".join(lines)

    def html(self, state: DriftState) -> str:
        parts: list[str] = [heading(self.title(), self.state_word(state))]
        parts += [paragraph(line) for line in self.lines(state)]
        if state.told is not None:
            rows = [(n, badge(s), *rest) for n, s, *rest in _finding_rows(state.told)]
            parts.append(table(_FINDING_HEADERS, rows, caption=_window_line(state.told)))
        if state.metrics:
            parts.append(table(_METRIC_HEADERS, _metric_rows(state.metrics), caption="Service, newest numbers"))
        if state.performance:
            rows = _performance_rows(state.performance)
            shown = [(*row[:7], badge(row[7]), row[8]) for row in rows]
            parts.append(table(_PERFORMANCE_HEADERS, shown, caption="Performance by late labels"))
        if state.alerts:
            rows = _alert_rows(state.alerts)
            parts.append(table(_ALERT_HEADERS, [(a, k, badge(p), *rest) for a, k, p, *rest in rows], caption="Alerts"))
        return "".join(parts)


def _lines(state: DriftState) -> list[str]:
    status = state.status
    found = counted(state.windows)
    lines = [
        f"{status.health}; {status.windows} windows of {status.monitor.window} rows" + (f": {found}" if found else ""),
        status.waiting(),
    ]
    dropped = sum(one.dropped for one in status.versions)
    if dropped:
        lines.append(f"{dropped} rows could not be logged and are in no window")
    if state.told is not None and any(finding.note for finding in state.told.findings):
        lines.append("rows depend on one another: p-values are smaller than they ought to be")
    lines += [_estimated_line(window) for window in _newest_of_each(state.windows)]
    if status.error:
        lines.append(f"last error: {status.error}")
    lines += [f"message {one.id} {one.phase}: {one.detail}" for one in status.undelivered[:3]]
    return [*lines, *status.monitor.notes]


def counted(windows: Sequence[WindowVerdict]) -> str:
    """Return how many windows had which outcome, in words."""
    outcomes = [window.outcome for window in windows]
    return ", ".join(
        f"{outcomes.count(outcome)} {word}"
        for outcome, word in (("passed", "without drift"), ("failed", "drifted"), ("inconclusive", "inconclusive"))
        if outcome in outcomes
    )


def _newest_of_each(windows: Sequence[WindowVerdict]) -> list[WindowVerdict]:
    newest = {window.version: window for window in windows if window.estimated is not None}
    return [newest[version] for version in sorted(newest)]


def _estimated_line(window: WindowVerdict) -> str:
    found = window.estimated
    assert found is not None  # the caller looked
    said = found.why if found.value is None else figure(found.value, "", found.low, found.high)
    return f"accuracy without labels, version {window.version}, window {window.index}: {said}"


def _window_line(window: WindowVerdict) -> str:
    said = {"failed": "drift", "passed": "no drift", "inconclusive": "inconclusive"}[window.outcome]
    why = f": {window.why}" if window.why else ""
    judged = f"{window.judged} of {window.columns} columns compared"
    return f"Window {window.index} of version {window.version}: {said}{why} ({window.rows} rows, {judged})"


def _finding_rows(window: WindowVerdict) -> list[tuple[str, ...]]:
    return [_finding_row(finding) for finding in window.findings[:_SHOWN]]


def _finding_row(finding: Finding) -> tuple[str, ...]:
    return (
        finding.name,
        finding.state,
        figure(finding.effect),
        figure(finding.bound),
        figure(finding.adjusted),
        finding.detector,
        "; ".join(text for text in (finding.why, finding.note) if text),
    )


def _metric_rows(metrics: Sequence[MonitoringMetric]) -> list[tuple[str, ...]]:
    newest = {(one.version, one.metric): one for one in metrics}

    def shown(version: int, metric: str, unit: str, scale: float = 1.0) -> str:
        found = newest.get((version, metric))
        return figure(None if found is None else found.value * scale, unit)

    return [
        (
            str(version),
            shown(version, "request_rate", ""),
            shown(version, "error_rate", "%", 100.0),
            shown(version, "latency_p95", "ms"),
            shown(version, "cpu", "cores"),
            shown(version, "memory", "MiB"),
        )
        for version in sorted({version for version, _ in newest})
    ]


def _performance_rows(performance: Sequence[Performance]) -> list[tuple[str, ...]]:
    return [
        (
            str(one.version),
            one.metric,
            figure(one.value, "", one.low, one.high),
            figure(one.baseline),
            f"{one.labelled}/{one.served}",
            f"{one.coverage:.0%}",
            "n/a" if one.lag_seconds is None else span(one.lag_seconds),
            one.outcome,
            one.why,
        )
        for one in performance
    ]


def _alert_rows(alerts: Sequence[Alert]) -> list[tuple[str, ...]]:
    return [
        (
            alert.id,
            alert.kind,
            alert.phase,
            (alert.fired_at or alert.created_at).strftime("%Y-%m-%d %H:%M:%S"),
            _few(alert.subjects),
        )
        for alert in alerts
    ]


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
