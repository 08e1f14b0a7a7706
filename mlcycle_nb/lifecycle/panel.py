"""The panel of a lifecycle: its stages as a strip, its gates, its steps, and the step that is open now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlcycle_nb.lifecycle.stages import Stage
from mlcycle_nb.lifecycle.status import LifecycleStatus
from mlcycle_nb.notebook.panel import Action, Panel

if TYPE_CHECKING:
    from mlcycle_nb.lifecycle.service import ModelLifecycleManager


class LifecyclePanel(Panel[LifecycleStatus]):
    """One lifecycle, read anew at each look."""

    def __init__(self, manager: ModelLifecycleManager, name: str) -> None:
        super().__init__()
        self._manager = manager
        self._name = name

    def title(self) -> str:
        return f"lifecycle {self._name}"

    def snapshot(self) -> LifecycleStatus:
        return self._manager.get_lifecycle_status(self._name)

    def text(self, state: LifecycleStatus) -> str:
        return repr(state)

    def html(self, state: LifecycleStatus) -> str:
        return state.to_html()

    def actions(self, state: LifecycleStatus) -> Sequence[Action]:
        return [
            Action(f"to {option.stage.value}", self._advance(option.stage))
            for option in state.next
            if option.open and option.stage is not Stage.RETIREMENT
        ]

    def finished(self, state: LifecycleStatus) -> bool:
        return not state.next

    def _advance(self, stage: Stage) -> Any:
        return lambda: self._manager.progress_to_stage(self._name, stage)
