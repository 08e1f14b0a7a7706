"""The handle of a monitor: it has no end of its own, so one waits for a number of windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlcycle_nb.notebook.handle import Handle

if TYPE_CHECKING:
    from mlcycle_nb.monitoring.status import MonitorStatus
    from mlcycle_nb.notebook.panel import Panel


class MonitorHandle(Handle["MonitorStatus"]):
    """A running monitor; `wait` returns with its first window, `wait_windows` with any number of them."""

    def __init__(
        self,
        record_id: str,
        read: Callable[[], MonitorStatus],
        panel: Callable[[], Panel[Any]],
        stop: Callable[[], Any],
        *,
        sustain: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(record_id, read, lambda status: _reached(status, 1), panel, sustain=sustain)
        self._stop = stop

    @property
    def status(self) -> MonitorStatus:
        """How the watching goes now."""
        return self.record

    def wait_windows(self, windows: int, timeout: float | None = None) -> MonitorStatus:
        """Block until this many windows have been judged since the start, over all versions, or it was stopped."""
        waiting: Handle[MonitorStatus] = Handle(
            self.id, self._read, lambda status: _reached(status, windows), sustain=self._sustain
        )
        return waiting.wait(timeout)

    def stop(self) -> None:
        """End the watching."""
        self._stop()


def _reached(status: MonitorStatus, windows: int) -> bool:
    return status.windows >= windows or status.monitor.phase == "stopped"
