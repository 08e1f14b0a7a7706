"""What an action promises."""

from __future__ import annotations

from typing import Protocol

from mlcycle_nb.context import Context
from mlcycle_nb.monitoring.records import Alert, Monitor


class AlertPolicy(Protocol):
    """Does one thing about an alert."""

    def take(self, context: Context, monitor: Monitor, alert: Alert) -> str:
        """Do it, and return in one line what was done.

        It may be called again for the same alert when the supervisor died in between, and must then find what it did
        instead of doing it twice: what it makes carries the alert's id, as the actor or in a key.

        Raises
        ------
        MLCycleError
            When it is not possible, or a rule says no; nothing has been changed then.
        """
        ...
