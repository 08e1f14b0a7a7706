"""What may be logged: hyperparameters and metrics, checked before anything is written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any

from mlcycle_nb.development.records import MetricRow
from mlcycle_nb.errors import InvalidInput

VALUE_LIMIT = 6000
"""Characters of a hyperparameter's value, as MLflow keeps them."""
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_\-. :/]{0,249}")


def flat_parameters(values: Mapping[str, Any] | Any, *, prefix: str = "") -> dict[str, str]:
    """Return nested parameters as ``outer.inner -> text``.

    Raises
    ------
    InvalidInput
        For a key outside MLflow's grammar, or a value over 6,000 characters.
    """
    if is_dataclass(values) and not isinstance(values, type):
        values = asdict(values)
    if not isinstance(values, Mapping):
        raise InvalidInput("hyperparameters must be a mapping", value=type(values).__name__)
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flat_parameters(value, prefix=f"{name}.")
            continue
        text = str(value)
        if len(text) > VALUE_LIMIT:
            raise InvalidInput(
                f"hyperparameter {name} has {len(text)} characters, over {VALUE_LIMIT}",
                remedy="log it as an artifact: log_artifacts({'name.json': ...})",
            )
        flat[check_key(name, "hyperparameter")] = text
    return flat


def metric_rows(metrics: Mapping[str, Any], *, step: int, time: datetime) -> list[MetricRow]:
    """Return one row for each metric; a value that is not a number is refused, NaN and infinity are kept as such."""
    return [
        MetricRow(key=check_key(key, "metric"), value=_number(key, value), step=step, time=time)
        for key, value in metrics.items()
    ]


def read_rows(rows: Iterable[MetricRow | Mapping[str, Any]], *, now: datetime) -> list[MetricRow]:
    """Return rows given as `MetricRow` or as mappings with ``key``, ``value`` and, if known, ``step`` and ``time``."""
    read = []
    for row in rows:
        if isinstance(row, MetricRow):
            read.append(row)
            continue
        unknown = set(row) - {"key", "value", "step", "time"}
        if unknown or not {"key", "value"} <= set(row):
            raise InvalidInput("a metric row has key, value, step and time", value=sorted(row))
        moment = row.get("time") or now
        if not isinstance(moment, datetime) or moment.tzinfo is None:
            raise InvalidInput("the time of a metric row must be a datetime with a time zone", value=moment)
        read += metric_rows({row["key"]: row["value"]}, step=int(row.get("step") or 0), time=moment)
    return read


def check_key(key: object, what: str) -> str:
    """Return `key` when MLflow can store it."""
    if not isinstance(key, str) or not _KEY.fullmatch(key) or ".." in key or "//" in key:
        raise InvalidInput(f"{what} name cannot be stored", value=key, remedy="use letters, digits, '_', '-', '.', '/'")
    return key


def _number(key: str, value: Any) -> float:
    plain = value.item() if hasattr(value, "item") and getattr(value, "size", 1) != 0 else value
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        raise InvalidInput(f"metric {key} is not a number", value=value)
    return float(plain)
