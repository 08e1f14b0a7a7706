"""What the gateway counted of a monitored service, and what its replicas took: series that deployment keeps."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from mlcycle_nb.context import Context
from mlcycle_nb.deployment import resources
from mlcycle_nb.monitoring.records import Monitor, MonitoringMetric

KIND = "traffic"
_METRICS = (
    ("requests", "request_rate", "1/s"),
    ("errors", "error_rate", "share"),
    ("p50_ms", "latency_p50", "ms"),
    ("p95_ms", "latency_p95", "ms"),
    ("p99_ms", "latency_p99", "ms"),
)


_RESOURCES = (("cpu_cores", "cpu", "cores", 1.0), ("memory_bytes", "memory", "MiB", 1 / 1_048_576))


def recent_requests(context: Context, monitor: Monitor, seconds: float) -> int | None:
    """Return the requests of the last `seconds` that a model answered, which is to say those that are logged.

    None when the gateway has never said anything about the service.
    """
    owner = f"service:{monitor.id}"
    since = context.clock.now() - timedelta(seconds=seconds)
    rows = context.store.measurements(owner, kind=KIND, since=since)
    if rows:
        return sum(
            max(0, _count(row, "requests") - _count(row, "errors") - _count(row, "client_errors")) for row in rows
        )
    return 0 if context.store.measurements(owner, kind=KIND, limit=1) else None


def _count(row: dict[str, Any], name: str) -> int:
    return int(row.get(name) or 0)


def traffic_metrics(context: Context, monitor: Monitor, limit: int) -> list[MonitoringMetric]:
    """Return request rate, error rate and latency of each version, oldest first."""
    found = []
    for row in context.store.measurements(f"service:{monitor.id}", kind=KIND, limit=limit):
        requests, seconds = int(row.get("requests", 0)), float(row.get("seconds") or 1.0)
        if not requests or "version" not in row:
            continue
        for key, metric, unit in _METRICS:
            value = row.get(key)
            if value is None:
                continue
            scaled = {"requests": value / max(seconds, 1e-3), "errors": value / requests}.get(key, value)
            found.append(
                MonitoringMetric(
                    time=row["time"], version=int(row["version"]), metric=metric, value=float(scaled), unit=unit
                )
            )
    return found


def resource_metrics(context: Context, monitor: Monitor, limit: int) -> list[MonitoringMetric]:
    """Return CPU and memory of each version's replicas together, oldest first."""
    found = []
    for row in context.store.measurements(resources.owner(monitor.id), kind=resources.KIND, limit=limit):
        for key, metric, unit, scale in _RESOURCES:
            if row.get(key) is not None:
                value = float(row[key]) * scale
                version = int(row["version"])
                found.append(MonitoringMetric(time=row["time"], version=version, metric=metric, value=value, unit=unit))
    return found
