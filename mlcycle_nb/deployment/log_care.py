"""Has the prediction logs of each environment kept within what the settings say, by a process of its own."""

from __future__ import annotations

import sys
import time

from mlcycle_nb.context import Context

FIRST_SECONDS = 60.0
CARE_SECONDS = 300.0


class LogCare:
    """Starts a pass over an environment's prediction logs when one is due.

    Parameters
    ----------
    context : Context
        The workspace.
    first_seconds, every_seconds : float
        When the first pass is due after the supervisor's start, and then each next one.
    """

    def __init__(
        self, context: Context, *, first_seconds: float = FIRST_SECONDS, every_seconds: float = CARE_SECONDS
    ) -> None:
        self._context = context
        self._every_seconds = every_seconds
        self._first_due = time.monotonic() + first_seconds
        self._due: dict[str, float] = {}

    def turn(self, environment: str) -> bool:
        """Start a pass if one is due; return whether one was started."""
        now = time.monotonic()
        if now < self._due.get(environment, self._first_due):
            return False
        self._due[environment] = now + self._every_seconds
        serving = self._context.settings.serving
        # Merging takes processor and memory that the supervisor's own turns must not wait for.
        argv = [
            *(sys.executable, "-m", "mlcycle_nb.serving.prediction_retention"),
            *(str(self._context.folder("predictions")), environment),
            *("--bytes", str(serving.prediction_log_bytes), "--days", str(serving.prediction_log_days)),
        ]
        log = self._context.folder("logs") / f"retention-{environment}.log"
        self._context.processes.ensure(f"retention-{environment}", argv, cwd=self._context.home, log=log)
        return True
