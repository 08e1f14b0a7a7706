"""What every stage service and controller is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlcycle_nb.clock import Clock, OffsetClock, SystemClock
from mlcycle_nb.errors import StoreError
from mlcycle_nb.files import private_folder
from mlcycle_nb.settings import Settings
from mlcycle_nb.store import Store
from mlcycle_nb.supervisor.processes import ProcessTable


@dataclass(frozen=True)
class Context:
    """One open workspace, without its services.

    Attributes
    ----------
    home : Path
        The workspace folder, 0700.
    actor : str
        Who acts: ``user@host``, or ``supervisor``.
    """

    home: Path
    settings: Settings
    store: Store
    clock: Clock
    processes: ProcessTable
    workspace_id: str
    actor: str

    def folder(self, *parts: str) -> Path:
        """Return a private folder below the workspace folder, made when absent."""
        path = self.home
        for part in parts:
            path = private_folder(path / part)
        return path

    def ensure_supervisor(self) -> None:
        """Start the supervisor when it does not run; returns once it leads or stands by."""
        from mlcycle_nb.supervisor.start import ensure_supervisor

        ensure_supervisor(self.home, self.settings)

    def revive_supervisor(self) -> None:
        """Start the supervisor again when it was killed; one that was told to stop stays stopped."""
        from mlcycle_nb.supervisor.start import revive_supervisor

        revive_supervisor(self.home, self.settings)


def open_context(home: Path, settings: Settings, *, actor: str = "", clock: Clock | None = None) -> Context:
    """Open the workspace in `home`: database, clock and process table."""
    try:
        private_folder(home)
    except OSError as failure:
        raise StoreError(
            f"the workspace folder cannot be made: {failure.strerror}",
            value=str(home),
            remedy="set MLCYCLE_HOME to a folder of yours",
        ) from failure
    if clock is None:
        clock = OffsetClock(home / "clock.json") if settings.workspace.clock == "offset" else SystemClock()
    store = Store(home, clock, settings.workspace.database_url)
    processes = ProcessTable(private_folder(home / "run") / "processes", store.workspace_id)
    return Context(home, settings, store, clock, processes, store.workspace_id, actor or settings.workspace.actor)
