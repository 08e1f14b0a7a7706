"""What ``%load_ext mlcycle_nb`` does: magics and completion, nothing heavy."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mlcycle_nb.notebook.magics import StageMagics, register

if TYPE_CHECKING:
    from mlcycle_nb.workspace import Workspace

MAGIC_MODULES = (
    "mlcycle_nb.workspace_magics",
    "mlcycle_nb.development.magic",
    "mlcycle_nb.development.environments.magic",
    "mlcycle_nb.training.magic",
    "mlcycle_nb.training.reproduce_handle",
    "mlcycle_nb.validation.magic",
    "mlcycle_nb.deployment.magic",
    "mlcycle_nb.monitoring.magic",
    "mlcycle_nb.retirement.magic",
    "mlcycle_nb.lifecycle.magic",
)


class _Session:
    """The workspace of one shell, opened on first use and again when the working directory's has changed."""

    def __init__(self) -> None:
        self._workspace: Workspace | None = None

    def open(self) -> Workspace:
        from mlcycle_nb.workspace import Workspace

        if self._workspace is None or not self._workspace.home.is_dir():
            self._workspace = Workspace.open()
        return self._workspace

    def close(self) -> None:
        if self._workspace is not None:
            self._workspace.close()
            self._workspace = None


_sessions: dict[int, tuple[_Session, list[tuple[str, str]], Any]] = {}


def stage_classes() -> Iterator[type[StageMagics]]:
    """Yield the magics class of each stage."""
    for module_name in MAGIC_MODULES:
        if importlib.util.find_spec(module_name) is None:
            continue
        module = importlib.import_module(module_name)
        for value in vars(module).values():
            own = isinstance(value, type) and issubclass(value, StageMagics) and value.__module__ == module_name
            if own:
                yield value


def load(shell: Any) -> None:
    """Register all magics and the completer in `shell`; a second call replaces the first."""
    from mlcycle_nb.development.lineage.cell_log import watch
    from mlcycle_nb.notebook.completion import completer

    unload(shell)
    watch(shell)
    session = _Session()
    added = register(shell, [stage(shell, session.open) for stage in stage_classes()])
    matcher = completer(shell, session.open)
    shell.Completer.custom_matchers.append(matcher)
    shell.push({"workspace": LazyWorkspace(session.open)}, interactive=False)
    _sessions[id(shell)] = (session, added, matcher)


def unload(shell: Any) -> None:
    """Remove the magics and the completer, and close this shell's workspace."""
    from mlcycle_nb.development.lineage.cell_log import unwatch

    unwatch(shell)
    session, added, matcher = _sessions.pop(id(shell), (None, [], None))
    for kind, name in added:
        shell.magics_manager.magics[kind].pop(name, None)
    if matcher in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(matcher)
    if session is not None:
        session.close()


class LazyWorkspace:
    """The name ``workspace`` in a notebook: the open `Workspace`, opened when first touched."""

    def __init__(self, open_workspace: Any) -> None:
        self._open = open_workspace

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._open(), name)

    def __dir__(self) -> list[str]:
        return [name for name in dir(type(self._open())) if not name.startswith("_")]

    def __repr__(self) -> str:
        return repr(self._open())
