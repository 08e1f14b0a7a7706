"""Importing MLflow without its telemetry, its progress bars and its log lines of first use."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_CHATTY = ("mlflow.store.db.utils", "mlflow.store.model_registry", "alembic", "alembic.runtime.migration")


def client_class() -> Any:
    """Return ``MlflowClient``; what the user set in the environment is left as it is."""
    for variable, value in _DEFAULTS.items():
        os.environ.setdefault(variable, value)
    logging.getLogger("mlflow.store.db.utils").addFilter(_is_not_raised_too)  # a second time is no second filter
    from mlflow import MlflowClient

    return MlflowClient


def _is_not_raised_too(record: logging.LogRecord) -> bool:
    """Hold back the page of traceback that MLflow logs beside the exception of the same words."""
    return not record.getMessage().startswith("SQLAlchemy database error")


@contextmanager
def hushed() -> Iterator[None]:
    """Keep the loggers that speak while a database is made to warnings."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
