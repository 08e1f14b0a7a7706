"""Whether somebody watches: a live front end gets widgets at once, a headless run waits and gets text."""

from __future__ import annotations

import os
from typing import Any


def shell() -> Any | None:
    """Return the running IPython shell, or None outside of one."""
    try:
        from IPython.core.getipython import get_ipython
    except ModuleNotFoundError:
        return None
    return get_ipython()


def is_live() -> bool:
    """Return whether a live front end shows this kernel's output.

    Jupyter Server names the session of each kernel it starts for a front end; nbclient, papermill, nbval and
    ``jupyter execute`` start kernels without a server. ``MLCYCLE_LIVE=0`` or ``1`` overrides.
    """
    override = os.environ.get("MLCYCLE_LIVE")
    if override in {"0", "1"}:
        return override == "1"
    running = shell()
    if running is None or running.__class__.__name__ != "ZMQInteractiveShell":
        return False
    return bool(os.environ.get("JPY_SESSION_NAME")) or "__vsc_ipynb_file__" in running.user_ns


def in_notebook() -> bool:
    """Return whether output goes to a Jupyter kernel's client, live or headless."""
    running = shell()
    return running is not None and running.__class__.__name__ == "ZMQInteractiveShell"
