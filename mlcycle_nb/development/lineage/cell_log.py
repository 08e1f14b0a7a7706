"""What ran in this kernel: each cell with its front end's id, its outcome, and the names that it changed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

_ATTRIBUTE = "_mlcycle_cell_log"
_UNSTORED = 2000
_OWN_NAMES = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One execution of a cell.

    Attributes
    ----------
    number : int
        As in ``In [number]``.
    source : str
        The cell, verbatim.
    code : str
        The cell as Python, magics turned into calls.
    cell : str
        Id that the front end gives the cell; empty when it gives none.
    changed : frozenset of str or None
        Names that were bound to another object afterwards; None when nobody looked.
    """

    number: int
    source: str
    code: str
    cell: str = ""
    failed: bool = False
    changed: frozenset[str] | None = None
    at: datetime | None = None


class CellLog:
    """Follows the executions of one IPython shell."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._seen: dict[int, Execution] = {}
        self._before: dict[str, int] = {}
        self._running: Execution | None = None
        self._unstored: deque[tuple[int, Execution]] = deque(maxlen=_UNSTORED)  # with the length of the history then
        self._unstored_newest = False
        self.deleted: set[str] = set()
        self.runs_started = 0
        """Runs that the running cell has started."""

    def executions(self) -> list[Execution]:
        """Return what ran so far, the running cell last; cells from before the log began are there without ids.

        Cells that a front end runs without storing them (variable inspectors do) count only while such a cell runs
        itself, and where no other was ever stored: that front end stores none at all, as nbval does.
        """
        history = list(self._shell.history_manager.input_hist_raw)
        found = []
        for number in range(1, len(history)):
            known = self._seen.get(number)
            if known is None or known.source != history[number]:
                known = Execution(number=number, source=history[number], code=self.to_python(history[number]))
            found.append(known)
        return self._with_unstored(found) if self._unstored_newest else found

    # -- IPython's events --------------------------------------------------------------------------------------

    def pre_run_cell(self, info: Any) -> None:
        """Note what begins to run."""
        self._running = None
        if info.silent:
            return
        self.runs_started = 0
        self.deleted |= self._deleted_cells()
        self._unstored_newest = not info.store_history
        source = info.raw_cell or ""
        self._running = Execution(
            # IPython's own counter has been raised by now in some releases, and not yet in others
            number=len(self._shell.history_manager.input_hist_raw),
            source=source,
            code=self.to_python(source),
            cell=getattr(info, "cell_id", None) or "",
            at=datetime.now(UTC),
        )
        self._keep(self._running, new=True)
        self._before = self._identities()

    def post_run_cell(self, result: Any) -> None:
        """Note how it ended, and which names it bound."""
        began = self._running
        if began is None:
            return
        now = self._identities()
        changed = {name for name, identity in now.items() if self._before.get(name) != identity}
        changed |= self._before.keys() - now.keys()
        self._keep(replace(began, failed=not result.success, changed=frozenset(changed)), new=False)
        self._running = None
        self._unstored_newest = self._unstored_newest and not self._seen

    def adopt_running(self) -> None:
        """Note the cell that runs already, where its front end stores none: what is stored is in the history."""
        ask = getattr(self._shell, "get_parent", None)  # of a kernel; a terminal has none
        content = (ask() or {}).get("content", {}) if ask is not None else {}
        if content.get("store_history", True) or content.get("silent", False):
            return
        source = str(content.get("code", ""))
        number = len(self._shell.history_manager.input_hist_raw)
        self._unstored_newest = True
        self._unstored.append((number, Execution(number=number, source=source, code=self.to_python(source))))

    def to_python(self, source: str) -> str:
        """Return a cell as Python, its magics turned into calls; empty when it can be no cell."""
        try:
            return str(self._shell.transform_cell(source))
        except (SyntaxError, ValueError):
            return ""  # it never ran

    # -- parts -------------------------------------------------------------------------------------------------

    def _keep(self, execution: Execution, *, new: bool) -> None:
        if not self._unstored_newest:
            self._seen[execution.number] = execution
            return
        if not new:
            self._unstored.pop()
        self._unstored.append((execution.number, execution))

    def _with_unstored(self, stored: list[Execution]) -> list[Execution]:
        """Return all executions in the order in which they ran, numbered anew."""
        placed = [((one.number, 0), one) for one in stored]
        placed += [((number - 1, position), one) for position, (number, one) in enumerate(self._unstored, start=1)]
        placed.sort(key=lambda entry: entry[0])
        return [replace(one, number=number) for number, (_, one) in enumerate(placed, start=1)]

    def _identities(self) -> dict[str, int]:
        names: Iterable[tuple[str, Any]] = list(self._shell.user_ns.items())
        return {name: id(value) for name, value in names if not name.startswith("_") and name not in _OWN_NAMES}

    def _deleted_cells(self) -> set[str]:
        """Return the cells that JupyterLab says were deleted since the execution before."""
        parent = getattr(self._shell, "parent_header", None)
        metadata = parent.get("metadata") if isinstance(parent, dict) else None
        deleted = metadata.get("deletedCells") if isinstance(metadata, dict) else None
        return {str(cell) for cell in deleted} if isinstance(deleted, list) else set()


def running_number(shell: Any) -> int:
    """Return the n of ``In [n]`` of the cell that runs; ``execution_count`` is ahead of it in newer IPythons only."""
    return max(1, len(shell.history_manager.input_hist_raw) - 1)  # the first entry is always empty


def watch(shell: Any) -> CellLog:
    """Follow `shell` from now on; a second call changes nothing."""
    log: CellLog | None = getattr(shell, _ATTRIBUTE, None)
    if log is None:
        log = CellLog(shell)
        setattr(shell, _ATTRIBUTE, log)
        shell.events.register("pre_run_cell", log.pre_run_cell)
        shell.events.register("post_run_cell", log.post_run_cell)
        log.adopt_running()
    return log


def unwatch(shell: Any) -> None:
    """Follow `shell` no more."""
    log: CellLog | None = getattr(shell, _ATTRIBUTE, None)
    if log is not None:
        shell.events.unregister("pre_run_cell", log.pre_run_cell)
        shell.events.unregister("post_run_cell", log.post_run_cell)
        delattr(shell, _ATTRIBUTE)


def log_of(shell: Any) -> CellLog | None:
    """Return the log of a shell; one without knowledge of cells when nobody follows it; None outside IPython."""
    if getattr(shell, "history_manager", None) is None:
        return None
    log: CellLog | None = getattr(shell, _ATTRIBUTE, None)
    return log or CellLog(shell)
