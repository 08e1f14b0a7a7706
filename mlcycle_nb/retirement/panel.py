"""The panel of one retirement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlcycle_nb.notebook.panel import Action, Panel
from mlcycle_nb.retirement.records import ENDED_PHASES, PLANNED
from mlcycle_nb.retirement.status import RetirementStatus

if TYPE_CHECKING:
    from mlcycle_nb.retirement.service import ModelRetirementManager


class RetirementPanel(Panel[RetirementStatus]):
    """Steps with their times, consumers with their answers, clean-up with sizes, and what it waits for.

    Parameters
    ----------
    service : ModelRetirementManager
        Reads the state.
    id : str
        The retirement.
    """

    def __init__(self, service: ModelRetirementManager, id: str) -> None:
        super().__init__()
        self._service = service
        self._id = id

    def title(self) -> str:
        """Return the name for people and screen readers."""
        return f"retirement {self._id}"

    def snapshot(self) -> RetirementStatus:
        """Read the status."""
        return self._service.status(self._id)

    def text(self, state: RetirementStatus) -> str:
        """Return the plain-text face."""
        return repr(state)

    def html(self, state: RetirementStatus) -> str:
        """Return the HTML face."""
        return state._repr_html_()

    def charts(self, state: RetirementStatus) -> Sequence[Any]:
        """Return the ramp, and the callers when there are any."""
        from mlcycle_nb.retirement import charts

        drawn = [charts.ramp(state.record, state.now)]
        if any(consumer.pinned for consumer in state.consumers):
            drawn.append(charts.callers(state.consumers))
        return drawn

    def actions(self, state: RetirementStatus) -> Sequence[Action]:
        """Return the buttons: start a plan, cancel what runs."""
        if state.phase == PLANNED:
            return (Action("Execute", lambda: self._service.execute_retirement(self._id), "warning"),)
        if state.phase in ENDED_PHASES or state.record.deleted_at is not None:
            return ()
        return (Action("Cancel", lambda: self._service.cancel(self._id, reason="cancelled in the panel"), "danger"),)

    def finished(self, state: RetirementStatus) -> bool:
        """Return whether it has ended."""
        return state.phase in ENDED_PHASES
