"""Monitoring records -> Altair charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlcycle_nb.monitoring.records import MonitoringMetric, Shares, WindowVerdict
from mlcycle_nb.notebook.charts import styled, time_axis
from mlcycle_nb.notebook.html import BLUE, GREY, ORANGE, RED

HEAT_FEATURES = 20
HEAT_WINDOWS = 40
_TITLES = {
    "request_rate": "Requests per second",
    "error_rate": "Share of errors",
    "latency_p50": "Latency, median (ms)",
    "latency_p95": "Latency, 95th percentile (ms)",
    "latency_p99": "Latency, 99th percentile (ms)",
}


def drift_heat_map(windows: Sequence[WindowVerdict]) -> Any:
    """Return features by windows: how many times its bound each difference is; drift is outlined."""
    import altair as alt

    shown = windows[-HEAT_WINDOWS:]
    rows = []
    for window in shown:
        for finding in window.findings:
            ratio = finding.effect / finding.bound if finding.effect is not None and finding.bound else None
            rows.append(
                {
                    "window": _window_name(window),
                    "feature": finding.name,
                    "ratio": 0.0 if ratio is None else round(min(ratio, 100.0), 4),
                    "state": finding.state,
                    "adjusted": finding.adjusted,
                    "effect": finding.effect,
                    "why": finding.why,
                }
            )
    features = _worst(rows)
    values = [row for row in rows if row["feature"] in features]
    order = [_window_name(window) for window in shown]
    base = alt.Chart(alt.Data(values=values)).encode(
        x=alt.X("window:O", sort=order, title="window (version: number)"),
        y=alt.Y("feature:N", sort=features, title=None),
        tooltip=["feature:N", "window:O", "state:N", "effect:Q", "adjusted:Q", "why:N"],
    )
    cells = base.mark_rect().encode(
        color=alt.condition(
            "datum.effect === null",
            alt.value("#eeeeee"),
            alt.Color(
                "ratio:Q",
                title="effect / bound",
                scale=alt.Scale(domain=[0, 1, 4], range=["#ffffff", "#fff3d6", RED], clamp=True),
            ),
        )
    )
    outlined = base.transform_filter("datum.state == 'drift'").mark_rect(fill=None, stroke="black", strokeWidth=1.5)
    height = max(80, 16 * len(features))
    return styled(cells + outlined, title="Drift by feature and window", height=height)


def _worst(rows: Sequence[dict[str, Any]]) -> list[str]:
    worst: dict[str, tuple[bool, float]] = {}
    for row in rows:
        own = (row["state"] == "drift", row["ratio"])
        worst[row["feature"]] = max(worst.get(row["feature"], (False, -1.0)), own)
    return sorted(worst, key=lambda name: (not worst[name][0], -worst[name][1], name))[:HEAT_FEATURES]


def _window_name(window: WindowVerdict) -> str:
    return f"{window.version}: {window.index}"


def distribution(shares: Shares) -> Any:
    """Return reference against current window of one column."""
    import altair as alt

    values = []
    for source, numbers in (("reference", shares.reference), ("window", shares.current)):
        for value, share in zip(shares.bins, numbers, strict=True):
            values.append({"value": value, "share": share, "of": source})
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_bar(opacity=0.85)
        .encode(
            x=alt.X("value:O", sort=list(shares.bins), title=None),
            xOffset=alt.XOffset("of:N"),
            y=alt.Y("share:Q", title="share of rows"),
            color=alt.Color("of:N", title=None, scale=alt.Scale(domain=["reference", "window"], range=[GREY, ORANGE])),
            tooltip=["of:N", "value:O", "share:Q"],
        )
    )
    return styled(chart, title=shares.name, width=300, height=140)


def metric_series(metrics: Sequence[MonitoringMetric], metric: str) -> Any | None:
    """Return one gateway metric over time, a line a version; None when there is nothing to draw."""
    import altair as alt

    values = [
        {"time": one.time.isoformat(), "version": str(one.version), "value": one.value}
        for one in metrics
        if one.metric == metric
    ]
    if not values:
        return None
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_line(point=len(values) < 40)
        .encode(
            x=time_axis(),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(domainMin=0)),
            color=alt.Color("version:N", title="version"),
            tooltip=["time:T", "version:N", "value:Q"],
        )
    )
    return styled(chart, title=_TITLES.get(metric, metric), width=300, height=140)


def window_latency(windows: Sequence[WindowVerdict]) -> Any | None:
    """Return the latency that the replicas measured, window by window; for services without a gateway's counts."""
    import altair as alt

    values = [
        {"time": one.last_time, "version": str(one.version), "quantile": name, "ms": number}
        for one in windows
        for name, number in (("median", one.latency_p50_ms), ("95th percentile", one.latency_p95_ms))
        if number is not None
    ]
    if not values:
        return None
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_line(point=True)
        .encode(
            x=time_axis(),
            y=alt.Y("ms:Q", title="ms"),
            color=alt.Color("quantile:N", title=None, scale=alt.Scale(range=[BLUE, ORANGE])),
            strokeDash=alt.StrokeDash("version:N", title="version"),
            tooltip=["version:N", "quantile:N", "ms:Q"],
        )
    )
    return styled(chart, title="Replica latency by window (ms)", width=300, height=140)
