"""What the supervisor asks of each stage."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from mlcycle_nb.store import Record

if TYPE_CHECKING:
    from mlcycle_nb.context import Context

# By name: the stages stand above the supervisor, which must not import them before it runs.
CONTROLLER_MODULES = (
    "mlcycle_nb.development.environments.controller",
    "mlcycle_nb.training.controller",
    "mlcycle_nb.training.search.controller",
    "mlcycle_nb.deployment.controller",
    "mlcycle_nb.monitoring.controller",
    "mlcycle_nb.retirement.controller",
    "mlcycle_nb.lifecycle.controller",
)


class Controller(Protocol):
    """Brings the records of one kind to what they declare.

    `next_action` must be pure: the same record, observation and time give the same action, so that each
    transition is tested without a process. `act` must be idempotent: a crash between its steps leads to the
    same action again.
    """

    record_type: type[Record]

    def observe(self, record: Any) -> Any:
        """Read the world as far as this record concerns it."""
        ...

    def next_action(self, record: Any, observation: Any, now: datetime) -> Any | None:
        """Return what to do next, or None when all is as declared."""
        ...

    def act(self, action: Any, record: Any, observation: Any) -> None:
        """Do one action and store what came of it."""
        ...


def load_controllers(context: Context) -> Iterator[Controller]:
    """Yield the controllers of all stages that have long work."""
    for module in CONTROLLER_MODULES:
        if importlib.util.find_spec(module) is not None:
            yield from importlib.import_module(module).build(context)
