"""The gateway's access log: one JSON line for each request, read from a position and rotated without losing a line.

Copies sent to a mirror are not requests and do not appear. After a kill -9 of Envoy the lines of its last
`FLUSH_SECONDS` are missing: they were in its memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.serving.gateway.clusters import INTAKE, ClusterName

FLUSH_SECONDS = 0.2
CURRENT = "access.log"
_ROTATED = re.compile(r"access\.(\d{6})\.log")
_GATEWAY_STATUSES = frozenset({0, 502, 503, 504})
_FROM_REPLICA = "via_upstream"


class AccessRow(NamedTuple):
    """One request as the gateway saw it. A tuple: the supervisor makes one for every request that is served.

    Attributes
    ----------
    version : int, optional
        The version that the split or the address chose, and that is charged with what happened. None when the gateway
        answered without choosing.
    answered_by : int, optional
        The version whose replica answered; differs from `version` when that one could not be reached.
    requested_version : int, optional
        The version that the caller named in the address or in ``x-mlcycle-version``.
    route : str
        ``default``, ``pinned``, ``tester``, ``feedback``, ``gone``, ``server``, ``denied``, ``method`` and the like.
    flags, details : str
        Envoy's response flags and response code details.
    attempts : int
        Tries at replicas; above 1 the first ones failed.
    """

    time: datetime
    request_id: str
    route: str
    model: str | None
    version: int | None
    answered_by: int | None
    requested_version: int | None
    consumer: str | None
    method: str
    path: str
    status: int
    flags: str
    details: str
    duration_ms: float | None
    attempts: int

    @property
    def from_replica(self) -> bool:
        """Whether a replica made the answer."""
        return self.details == _FROM_REPLICA

    @property
    def gateway_made(self) -> bool:
        """Whether the gateway had to fail a request that a replica should have answered."""
        return not self.from_replica and self.version is not None and self.status in _GATEWAY_STATUSES

    @property
    def fell_back(self) -> bool:
        """Whether another version answered because the chosen one could not be reached."""
        return self.from_replica and self.answered_by != self.version


@dataclass(frozen=True, slots=True)
class AccessBatch:
    """Rows since a position, and the position after them.

    ``unreadable`` counts lines that are no record; ``missed`` says that rows before these were rotated away.
    """

    rows: tuple[AccessRow, ...]
    position: str
    unreadable: int = 0
    missed: bool = False


@dataclass(frozen=True, slots=True)
class RequestTotals:
    """Requests of one version: the model's own errors are counted apart from the gateway's."""

    requests: int = 0
    model_errors: int = 0
    gateway_errors: int = 0
    client_errors: int = 0
    fell_back: int = 0


class AccessLogReader:
    """Reads the rows of one gateway's folder, over rotations."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, position: str | None = None, *, limit_bytes: int = 8_388_608) -> AccessBatch:
        """Return the whole lines after `position`, at most about `limit_bytes` of them; from the start when None."""
        sequence, offset = _parse_position(position)
        while True:
            before = rotated(self.folder)
            first = min(before, default=1)
            missed = position is not None and sequence < first
            if sequence < first:
                sequence, offset = first, 0
            newest = max(before, default=0) + 1
            file = before.get(sequence) or self.folder / CURRENT
            content = _read_lines(file, offset, limit_bytes)
            if rotated(self.folder).keys() != before.keys():
                continue  # a rotation came between naming the file and reading it
            # A rotated file is finished once its successor exists: until then Envoy still writes to it.
            successor = before.get(sequence + 1) or self.folder / CURRENT
            if not content and sequence < newest and successor.exists():
                sequence, offset = sequence + 1, 0
                continue
            rows, unreadable = _rows(content)
            return AccessBatch(rows, f"{sequence}:{offset + len(content)}", unreadable, missed)


def rotated(folder: Path) -> dict[int, Path]:
    """Return the rotated files by their number."""
    found = ((_ROTATED.fullmatch(file.name), file) for file in folder.iterdir())
    return {int(match[1]): file for match, file in found if match}


def rotate(folder: Path, *, max_bytes: int, keep: int) -> bool:
    """Set the current file aside when it is over `max_bytes`, and delete all but `keep` older ones.

    The caller has Envoy reopen its log afterwards; until then it goes on writing to the renamed file.
    """
    current, older = folder / CURRENT, rotated(folder)
    for number in sorted(older)[: max(0, len(older) - keep)]:
        older[number].unlink()
    if not current.exists() or current.stat().st_size <= max_bytes:
        return False
    current.rename(folder / f"access.{max(older, default=0) + 1:06d}.log")
    return True


def totals(rows: Iterable[AccessRow]) -> dict[tuple[str, int], RequestTotals]:
    """Return the totals of each (model, version) that was charged."""
    counted: dict[tuple[str, int], dict[str, int]] = {}
    for row in rows:
        if row.model is None or row.version is None:
            continue
        one = counted.setdefault((row.model, row.version), dict.fromkeys(RequestTotals.__dataclass_fields__, 0))
        one["requests"] += 1
        one["gateway_errors"] += row.gateway_made
        one["model_errors"] += row.from_replica and row.status >= 500
        one["client_errors"] += 400 <= row.status < 500
        one["fell_back"] += row.fell_back
    return {key: RequestTotals(**fields) for key, fields in counted.items()}


def _parse_position(position: str | None) -> tuple[int, int]:
    if position is None:
        return 0, 0
    match = re.fullmatch(r"([0-9]{1,6}):([0-9]{1,18})", position)
    if match is None:
        raise InvalidInput("is not a position in the access log", value=position)
    return int(match[1]), int(match[2])


def _read_lines(file: Path, offset: int, limit: int) -> bytes:
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            content = stream.read(limit)
    except FileNotFoundError:
        return b""
    return content[: content.rfind(b"\n") + 1]  # the last line may be half written


def _rows(content: bytes) -> tuple[tuple[AccessRow, ...], int]:
    rows, unreadable = [], 0
    for line in content.splitlines():
        try:
            rows.append(_row(orjson.loads(line)))
        except (ValueError, KeyError, TypeError):
            unreadable += 1
    return tuple(rows), unreadable


# Thousands of requests a second have few clusters and few routes.
@lru_cache(maxsize=4096)
def _version(cluster: str | None) -> int | None:
    # Labels are charged to no version: no model answers them.
    return ClusterName.parse(cluster).version if cluster and cluster != str(INTAKE) else None


@lru_cache(maxsize=4096)
def _route(name: str | None) -> tuple[str, str | None, int | None]:
    """Return kind, model and requested version that a route's name stands for."""
    kind, _, rest = (name or "none").partition(":")
    model, _, requested = rest.partition(":")
    return kind, model or None, int(requested) if requested else None


def _row(entry: dict[str, Any]) -> AccessRow:
    kind, model, requested = _route(entry["route"])
    attempts = int(entry["attempts"] or 0)
    answered = entry["details"] == _FROM_REPLICA
    duration = entry["duration_us"]
    return AccessRow(
        time=datetime.fromtimestamp(float(entry["time"]), UTC),
        request_id=entry["request_id"] or "",
        route=kind,
        model=model,
        version=_version(entry["cluster"]) if attempts else None,
        answered_by=_version(entry["answered_by"]) if answered else None,
        requested_version=requested,
        consumer=entry["consumer"],
        method=entry["method"] or "",
        path=entry["path"] or "",
        status=int(entry["status"] or 0),
        flags=entry["flags"] if entry["flags"] not in (None, "-") else "",
        details=entry["details"] or "",
        duration_ms=None if duration is None else float(duration) / 1000,
        attempts=attempts,
    )
