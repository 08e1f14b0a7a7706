"""The handle and the panel of one environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mlcycle_nb.development.environments.records import Environment
from mlcycle_nb.errors import EngineError
from mlcycle_nb.notebook.handle import Handle
from mlcycle_nb.notebook.html import badge, heading, table, text_table
from mlcycle_nb.notebook.panel import Panel

if TYPE_CHECKING:
    from mlcycle_nb.development.environments.service import Environments

_HEADERS = ("environment", "phase", "python", "packages", "lock", "kernel")


class EnvironmentHandle(Handle[Environment]):
    """An environment that is built, or was."""

    def __init__(self, environments: Environments, name: str, *, sustain: Callable[[], None] | None = None) -> None:
        super().__init__(
            name,
            read=lambda: environments.get(name),
            done=lambda record: not record.active,
            panel=lambda: EnvironmentPanel(environments, name),
            sustain=sustain,
        )

    def result(self, timeout: float | None = None) -> Environment:
        """Wait and return the environment that is ready.

        Raises
        ------
        EngineError
            With what the installer said, when it could not be built.
        """
        return raise_if_failed(self.wait(timeout))


def raise_if_failed(record: Environment) -> Environment:
    """Return `record`, or raise why its newest build failed."""
    if record.failure:
        raise EngineError(
            f"environment {record.id}: {record.failure}",
            remedy=f"%environment log {record.id}; %environment rebuild {record.id} tries again",
        )
    return record


class EnvironmentPanel(Panel[Environment]):
    """What one environment holds, or what its build does now."""

    def __init__(self, environments: Environments, name: str) -> None:
        super().__init__()
        self._environments = environments
        self._name = name

    def title(self) -> str:
        return f"environment {self._name}"

    def snapshot(self) -> Environment:
        return self._environments.get(self._name)

    def finished(self, state: Environment) -> bool:
        return not state.active

    def text(self, state: Environment) -> str:
        return "\n".join([self.title(), *(f"  {name}: {value}" for name, value in self._facts(state))])

    def html(self, state: Environment) -> str:
        return heading(self.title(), state.phase) + table(("", ""), self._facts(state))

    def _facts(self, state: Environment) -> list[tuple[str, str]]:
        from mlcycle_nb.development.environments.service import facts

        return facts(self._environments, state)


class EnvironmentList(list[Environment]):
    """Environments as a table."""

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                record.id,
                record.phase,
                record.python or "-",
                str(sum(1 for line in record.lock.splitlines() if line and not line.startswith("#"))),
                record.lock_digest[:19] or "-",
                record.kernel or "-",
            )
            for record in self
        ]

    def __repr__(self) -> str:
        return text_table(_HEADERS, self._rows()) if self else "no environments yet; %environment create makes one"

    def _repr_html_(self) -> str:
        return table(_HEADERS, [(row[0], badge(row[1]), *row[2:]) for row in self._rows()])
