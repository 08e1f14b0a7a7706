"""Who refers to an environment: runs that ran in it, versions that came from them, jobs that are yet to run."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mlcycle_nb.development.records import RegisteredVersion

if TYPE_CHECKING:
    from mlcycle_nb.context import Context
    from mlcycle_nb.development.tracking import Tracking

ENVIRONMENT_TAG = "mlcycle.environment"
# By name: the stages that run things in environments stand above this one.
USER_MODULES = ("mlcycle_nb.training.environments", "mlcycle_nb.deployment.runtimes")


def users(context: Context, tracking: Tracking, name: str) -> list[str]:
    """Return in words who refers to an environment."""
    runs = tracking.tagged(ENVIRONMENT_TAG, name)
    versions = [v for v in context.store.find(RegisteredVersion) if v.run_id in {run.id for run in runs}]
    found = [f"version {version.model}/{version.number}" for version in versions]
    found += [f"run {run.name} ({run.id[:8]})" for run in runs]
    for module in USER_MODULES:
        found += importlib.import_module(module).users(context, name)
    return found


def of_interpreter(context: Context, prefix: str) -> Mapping[str, str]:
    """Return ``environment`` and ``environment_lock`` of a run whose interpreter has this prefix; empty for others."""
    from pathlib import Path

    from mlcycle_nb.development.environments.records import Environment

    try:
        inside = Path(prefix).resolve().relative_to((context.home / "environments").resolve())
    except ValueError:
        return {}
    record = context.store.maybe(Environment, inside.parts[0]) if inside.parts else None
    return {} if record is None else {"environment": record.id, "environment_lock": record.lock}
