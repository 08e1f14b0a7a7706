"""The gateway's access log -> who called which version, and how each version did from second to second."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from mlcycle_nb.serving.gateway import AccessRow

CALLERS_KEPT = 500
POINTS_KEPT = 7200
KIND = "traffic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """What one consumer has asked of one version; ``pinned`` counts requests to the version's own address."""

    consumer: str
    requests: int
    errors: int
    pinned: int
    first_seen: datetime
    last_seen: datetime
    last_pinned: datetime | None = None


def charged(row: AccessRow) -> bool:
    """Whether a row is a request to a model, charged to one of its versions."""
    return row.model is not None and row.version is not None and row.method == "POST"


def failed(row: AccessRow) -> bool:
    """Whether the version that was charged did not answer well: an error of the model, or no answer from it."""
    return row.gateway_made or row.fell_back or (row.from_replica and row.status >= 500)


def add_callers(
    table: Mapping[str, Mapping[str, Any]], rows: Iterable[AccessRow], shift: timedelta
) -> dict[str, dict[str, Any]]:
    """Return the totals of `table` with `rows` added; keys are ``model/version/consumer``, bounded in number.

    Parameters
    ----------
    shift : timedelta
        What the workspace's clock is ahead of the machine's, which stamps the log.
    """
    new = {key: dict(value) for key, value in table.items()}
    groups: dict[tuple[str, int, str, bool], list[AccessRow]] = {}
    for row in rows:
        pinned = row.route == "pinned"
        # A caller of a version's own address is its caller, whichever version answers during a retirement.
        version = row.requested_version if pinned and row.requested_version else row.version
        if row.model is None or version is None or row.consumer is None or row.method != "POST":
            continue
        groups.setdefault((row.model, version, row.consumer, pinned), []).append(row)
    for (model, version, consumer, pinned), group in groups.items():
        times = [row.time for row in group]
        first, last = min(times) + shift, max(times) + shift
        seen = {
            "requests": 0,
            "errors": 0,
            "pinned": 0,
            "first_seen": first.isoformat(),
            "last_seen": "",
            "last_pinned": None,
        }
        one = new.setdefault(f"{model}/{version}/{consumer}", seen)
        one["requests"] += len(group)
        one["first_seen"] = min(one["first_seen"], first.isoformat())
        one["errors"] += sum(map(failed, group))
        one["last_seen"] = max(one["last_seen"], last.isoformat())
        if pinned:
            one["pinned"] += len(group)
            one["last_pinned"] = last.isoformat()
    if len(new) > CALLERS_KEPT:
        kept = sorted(new, key=lambda key: new[key]["last_seen"], reverse=True)[:CALLERS_KEPT]
        new = {key: new[key] for key in sorted(kept)}
    return new


def read_callers(table: Mapping[str, Mapping[str, Any]], model: str, version: int | None) -> list[Caller]:
    """Return the callers of a model, or of one version of it, the busiest first."""
    found: dict[str, Caller] = {}
    for key, one in table.items():
        named, number, consumer = key.rsplit("/", 2)
        if named != model or (version is not None and int(number) != version):
            continue
        pinned = one.get("last_pinned")
        caller = Caller(
            consumer=consumer,
            requests=int(one["requests"]),
            errors=int(one["errors"]),
            pinned=int(one["pinned"]),
            first_seen=datetime.fromisoformat(one["first_seen"]),
            last_seen=datetime.fromisoformat(one["last_seen"]),
            last_pinned=None if pinned is None else datetime.fromisoformat(pinned),
        )
        found[consumer] = caller if consumer not in found else _together(found[consumer], caller)
    return sorted(found.values(), key=lambda caller: (-caller.requests, caller.consumer))


def _together(one: Caller, other: Caller) -> Caller:
    pinned = [moment for moment in (one.last_pinned, other.last_pinned) if moment is not None]
    return Caller(
        consumer=one.consumer,
        requests=one.requests + other.requests,
        errors=one.errors + other.errors,
        pinned=one.pinned + other.pinned,
        first_seen=min(one.first_seen, other.first_seen),
        last_seen=max(one.last_seen, other.last_seen),
        last_pinned=max(pinned, default=None),
    )


def traffic_points(rows: Iterable[AccessRow], seconds: float, shift: timedelta) -> dict[str, list[dict[str, Any]]]:
    """Return, for each model, one measurement a version: counts by who is to blame, and latency quantiles."""
    groups: dict[tuple[str, int], list[AccessRow]] = {}
    for row in rows:
        if charged(row) and row.model is not None and row.version is not None:
            groups.setdefault((row.model, row.version), []).append(row)
    points: dict[str, list[dict[str, Any]]] = {}
    for (model, version), group in sorted(groups.items()):
        times = sorted(row.duration_ms for row in group if row.duration_ms is not None and row.from_replica)
        points.setdefault(model, []).append(
            {
                "time": max(row.time for row in group) + shift,
                "kind": KIND,
                "version": version,
                "seconds": round(seconds, 3),
                "requests": len(group),
                "errors": sum(failed(row) for row in group),
                "model_errors": sum(row.from_replica and row.status >= 500 for row in group),
                "gateway_errors": sum(row.gateway_made for row in group),
                "client_errors": sum(400 <= row.status < 500 for row in group),
                "fell_back": sum(row.fell_back for row in group),
                **{f"p{share}_ms": quantile(times, share / 100) for share in (50, 95, 99)},
            }
        )
    return points


def quantile(ordered: list[float], share: float) -> float | None:
    """Return a quantile of sorted values (the nearest one), None when there are none."""
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)
