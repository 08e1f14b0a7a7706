"""Typed settings: file ``mlcycle.toml`` < environment < argument.

Unknown keys and impossible values are refused with their place and a suggestion, all of them at once.
"""

from __future__ import annotations

import getpass
import math
import os
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mlcycle_nb.errors import InvalidSettings, did_you_mean, show_value
from mlcycle_nb.files import read_small_file


def _bounded(default: Any, low: float, high: float) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


def _choice(default: str, *choices: str) -> Any:
    return field(default=default, metadata={"choices": choices})


def _actor() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's uid without a passwd entry
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceSettings:
    """Where state lives and who acts."""

    database_url: str = ""  # empty: SQLite in the workspace folder
    tracking_uri: str = ""  # empty: MLflow on SQLite in the workspace folder
    actor: str = field(default_factory=_actor)
    clock: str = _choice("system", "system", "offset")  # offset: `mlcycle clock advance`, for rehearsals and tests
    single_user: str = _choice("auto", "auto", "yes", "no")  # may one person approve their own; auto: yes on SQLite
    deterministic: bool = False  # stable ids, times and roundings in outputs, for compared notebooks


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorSettings:
    """The reconcile loop."""

    tick_seconds: float = _bounded(0.2, 0.01, 60)
    workers: int = _bounded(8, 1, 64)
    idle_exit_seconds: float = _bounded(600.0, 1, 86_400)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSettings:
    """Replicas, gateway and prediction log."""

    replicas: int = _bounded(2, 1, 64)
    replica_threads: int = _bounded(1, 1, 64)
    gateway_threads: int = _bounded(1, 1, 64)
    gateway_port: int = _bounded(0, 0, 65_535)  # 0: a free one, kept by the workspace
    max_concurrency: int = _bounded(1024, 1, 65_536)  # requests in flight that the gateway admits to one version
    body_limit_bytes: int = _bounded(1_048_576, 1024, 1_073_741_824)
    # Of one model in one environment, all its versions together; the oldest files go first.
    prediction_log_bytes: int = _bounded(1_073_741_824, 1_048_576, 1_099_511_627_776)
    prediction_log_days: float = _bounded(30.0, 0.01, 3650)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSettings:
    """Which environments there are, and which of them ask for passed gates."""

    environments: tuple[str, ...] = ("dev", "staging", "production")
    gated: tuple[str, ...] = ("staging", "production")


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoringSettings:
    """Where alerts go, and hosts a webhook may reach although they are local."""

    webhook_url: str = ""
    webhook_secret_file: str = ""
    webhook_allowed_hosts: tuple[str, ...] = ()
    apprise_file: str = ""  # private file with one NAME = URL a line


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleSettings:
    """Which environments a version reaches only after somebody approved it."""

    approvals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a workspace."""

    workspace: WorkspaceSettings = field(default_factory=WorkspaceSettings)
    supervisor: SupervisorSettings = field(default_factory=SupervisorSettings)
    serving: ServingSettings = field(default_factory=ServingSettings)
    deployment: DeploymentSettings = field(default_factory=DeploymentSettings)
    monitoring: MonitoringSettings = field(default_factory=MonitoringSettings)
    lifecycle: LifecycleSettings = field(default_factory=LifecycleSettings)


SECTIONS = {f.name: f.default_factory for f in fields(Settings)}
_SHORT_ENVIRONMENT = {
    "MLCYCLE_DATABASE_URL": ("workspace", "database_url"),
    "MLFLOW_TRACKING_URI": ("workspace", "tracking_uri"),
    "MLCYCLE_ACTOR": ("workspace", "actor"),
    "MLCYCLE_CLOCK": ("workspace", "clock"),
    "MLCYCLE_DETERMINISTIC": ("workspace", "deterministic"),
}


def load_settings(
    file: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Settings:
    """Read the settings of a workspace.

    Parameters
    ----------
    file : Path, optional
        ``mlcycle.toml``; a missing file is no settings.
    environ : mapping, optional
        The process environment by default. ``MLCYCLE_<SECTION>_<KEY>`` sets any key.
    overrides : mapping, optional
        ``{"serving": {"replicas": 3}}``, the highest priority.

    Raises
    ------
    InvalidSettings
        Naming every wrong key and value with its place.
    """
    environ = os.environ if environ is None else environ
    problems: list[str] = []
    settings = Settings()
    if file is not None and os.path.lexists(file):  # a link that leads nowhere is an error, not "no settings"
        settings = _apply(settings, _read_toml(file), str(file.name), problems)
    settings = _apply(settings, _from_environment(environ), "environment", problems, parse_text=True)
    settings = _apply(settings, overrides or {}, "argument", problems)
    if problems:
        raise InvalidSettings("; ".join(problems), remedy="nothing was changed")
    return settings


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_small_file(file))
    except (ValueError, RecursionError) as failure:  # more than TOMLDecodeError: 5,000 digits, 10,000 brackets
        raise InvalidSettings(f"not valid TOML: {failure}", where=str(file)) from failure


def _from_environment(environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for variable, (section, key) in _SHORT_ENVIRONMENT.items():
        if environ.get(variable):
            found.setdefault(section, {})[key] = environ[variable]
    for variable, text in environ.items():
        for section in SECTIONS:
            prefix = f"MLCYCLE_{section}_".upper()
            if text and variable.startswith(prefix):  # a misspelt key is found like one in the file
                found.setdefault(section, {})[variable.removeprefix(prefix).lower()] = text
    return found


def _apply(
    settings: Settings, tree: Mapping[str, Any], source: str, problems: list[str], *, parse_text: bool = False
) -> Settings:
    for section, values in tree.items():
        if section not in SECTIONS:
            problems.append(f"unknown section [{section}] in {source}: {did_you_mean(section, SECTIONS)}")
            continue
        if not isinstance(values, Mapping):
            problems.append(f"[{section}] in {source} must be a table")
            continue
        current = getattr(settings, section)
        known = {f.name: f for f in fields(current)}
        changed: dict[str, Any] = {}
        for key, value in values.items():
            place = f"{source}: {section}.{key}"
            if key not in known:
                problems.append(f"unknown key {place}: {did_you_mean(key, known)}")
                continue
            try:
                default = getattr(current, key)
                changed[key] = _check(_parse(value, default) if parse_text else value, default, known[key].metadata)
            except ValueError as failure:
                problems.append(f"{place} {failure} (got {show_value(value)})")
        settings = replace(settings, **{section: replace(current, **changed)})
    return settings


def _parse(text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text.lower() in {"1", "true", "yes"}:
            return True
        if text.lower() in {"0", "false", "no"}:
            return False
        raise ValueError("must be true or false")
    if isinstance(default, int | float):
        try:
            return type(default)(text)
        except ValueError:
            raise ValueError("must be a number") from None
    if isinstance(default, tuple):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _check(value: Any, default: Any, metadata: Mapping[str, Any]) -> Any:
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value
    if isinstance(default, int | float):
        if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < value < math.inf:
            raise ValueError("must be a finite number")
        if not metadata["low"] <= value <= metadata["high"]:
            raise ValueError(f"must be from {metadata['low']} to {metadata['high']}")
        if isinstance(default, int) and value != int(value):
            raise ValueError("must be a whole number")
        return type(default)(value)
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
            raise ValueError("must be a list of texts")
        return tuple(value)
    if not isinstance(value, str):
        raise ValueError(f"must be text, got {type(value).__name__}; quote it")
    choices = metadata.get("choices")
    if choices and value not in choices:
        raise ValueError(f"must be one of {', '.join(choices)}; {did_you_mean(value, choices)}".rstrip("; "))
    return value
