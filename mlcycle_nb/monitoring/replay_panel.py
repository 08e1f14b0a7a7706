"""The drift panel of a replay: the same faces, over what nobody was told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlcycle_nb.monitoring.health import Health
from mlcycle_nb.monitoring.panel import DriftPanel, DriftState, counted
from mlcycle_nb.monitoring.status import MonitorStatus
from mlcycle_nb.notebook.panel import Action, Panel

if TYPE_CHECKING:
    from mlcycle_nb.monitoring.replay import Replay


class ReplayPanel(DriftPanel):
    """What a replay found.

    Parameters
    ----------
    found : Replay
    """

    def __init__(self, found: Replay) -> None:
        Panel.__init__(self)
        self._found = found

    def title(self) -> str:
        monitor = self._found.monitor
        return f"Replay of {monitor.model} in {monitor.environment}"

    def snapshot(self) -> DriftState:
        found = self._found
        newest = {one.version: one for one in found.performance}
        status = MonitorStatus(
            monitor=found.monitor,
            health=Health.STOPPED,
            versions=(),
            alerts=tuple(alert for alert in found.alerts if alert.open),
            undelivered=(),
            heartbeat=None,
            error="",
        )
        return DriftState(
            status=status,
            windows=found.windows,
            metrics=(),
            performance=tuple(newest[version] for version in sorted(newest)),
            alerts=tuple(reversed(found.alerts)),
        )

    def actions(self, state: DriftState) -> Sequence[Action]:
        return ()

    def finished(self, state: DriftState) -> bool:
        return True

    def state_word(self, state: DriftState) -> str:
        return "drift" if any(window.outcome == "failed" for window in state.windows) else "no drift"

    def lines(self, state: DriftState) -> list[str]:
        found = self._found
        size = found.monitor.window
        told = counted(state.windows)
        lines = [
            f"{found.source} replayed: {found.rows} rows, {len(found.windows)} windows of {size}"
            + (f": {told}" if told else ""),
            f"{found.waiting} rows filled no window; nobody was told, and nothing is stored",
        ]
        if found.windows:
            first, last = found.windows[0].first_time[:19], found.windows[-1].last_time[:19]
            lines.append(f"recorded from {first} to {last} UTC")
        return [*lines, *found.monitor.notes]
