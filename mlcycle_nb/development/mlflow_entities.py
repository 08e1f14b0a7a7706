"""MLflow's entities as our records, and its times as ours."""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from mlcycle_nb.development.records import PACKAGE_TAG, ModelVersion, Run, RunStatus

_STATUS: dict[str, RunStatus] = {
    "RUNNING": "running",
    "SCHEDULED": "running",
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "killed",
}


def to_run(found: Any, experiment: str) -> Run:
    """Return MLflow's run as ours."""
    info, data = found.info, found.data
    return Run(
        id=info.run_id,
        name=info.run_name or info.run_id[:8],
        experiment=experiment,
        status=_STATUS[info.status],
        started_at=to_moment(info.start_time),
        ended_at=None if info.end_time is None else to_moment(info.end_time),
        parameters=dict(data.params),
        metrics={key: to_number(value) for key, value in data.metrics.items()},
        tags=dict(data.tags),
    )


def to_version(found: Any) -> ModelVersion:
    """Return MLflow's model version as ours."""
    tags = dict(found.tags or {})
    return ModelVersion(
        name=found.name,
        version=int(found.version),
        package_digest=tags.get(PACKAGE_TAG, ""),
        run_id=found.run_id or None,
        created_at=to_moment(found.creation_timestamp),
        aliases=tuple(sorted(found.aliases or ())),
        tags=tags,
    )


def to_number(value: float) -> float:
    """Return a metric's value; MLflow's databases keep the largest float in place of infinity."""
    return math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value


def to_milliseconds(moment: datetime) -> int:
    """Return a time as MLflow stores it."""
    return round(moment.timestamp() * 1000)


def to_moment(milliseconds: int) -> datetime:
    """Return MLflow's time as an aware one."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def all_pages(search: Any, **criteria: Any) -> list[Any]:
    """Return the results of all pages of a search."""
    found: list[Any] = []
    token = None
    while True:
        page = search(page_token=token, **criteria)
        found.extend(page)
        token = page.token
        if not token:
            return found


def without_password(uri: str) -> str:
    """Return a tracking URI that may be shown."""
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    host = f"{parts.username}:***@{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    return urlunsplit(parts._replace(netloc=host))
