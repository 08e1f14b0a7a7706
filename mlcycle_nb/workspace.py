"""The workspace: settings, stores and the seven stage services, put together in one place."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mlcycle_nb.clock import Clock
from mlcycle_nb.context import Context, open_context
from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.settings import Settings, load_settings
from mlcycle_nb.store import Store

if TYPE_CHECKING:
    from mlcycle_nb.deployment.service import ModelDeploymentManager
    from mlcycle_nb.development.service import ModelDevelopmentManager
    from mlcycle_nb.doctor import Diagnosis
    from mlcycle_nb.lifecycle.service import ModelLifecycleManager
    from mlcycle_nb.monitoring.service import ModelMonitor
    from mlcycle_nb.retirement.service import ModelRetirementManager
    from mlcycle_nb.status import WorkspaceStatus
    from mlcycle_nb.store.audit import AuditVerdict
    from mlcycle_nb.training.service import TrainingManager
    from mlcycle_nb.validation.service import ModelValidator

FOLDER = ".mlcycle"


def locate(path: str | os.PathLike[str] | None = None) -> Path:
    """Return the workspace folder: `path`, else ``$MLCYCLE_HOME``, else ``.mlcycle`` in the working directory."""
    return Path(path or os.environ.get("MLCYCLE_HOME") or Path.cwd() / FOLDER).expanduser().absolute()


class Workspace:
    """One workspace: a folder, a database, and the services of all stages.

    Open one with `Workspace.open`. Services are made on first use, so that opening stays instant.
    """

    def __init__(self, context: Context) -> None:
        self.context = context

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        clock: Clock | None = None,
    ) -> Workspace:
        """Open the workspace, making it when there is none.

        Parameters
        ----------
        path : path-like, optional
            The workspace folder; ``$MLCYCLE_HOME``, else ``.mlcycle`` in the working directory.
        settings : mapping, optional
            Settings of the highest priority, such as ``{"serving": {"replicas": 3}}``.
        clock : Clock, optional
            Source of time in this process.

        Raises
        ------
        InvalidSettings
            When ``mlcycle.toml`` beside the folder, the environment or `settings` is wrong.
        StoreError
            When the database is newer, half migrated or unusable.
        """
        home = locate(path)
        if home.exists() and not home.is_dir():
            raise InvalidInput("the workspace is not a folder", value=str(home))
        loaded = load_settings(home.parent / "mlcycle.toml", overrides=settings)
        return cls(open_context(home, loaded, clock=clock))

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Workspace({str(self.home)!r})"

    def close(self) -> None:
        """Close the database connections of this process; what runs goes on."""
        self.context.store.close()

    @property
    def home(self) -> Path:
        """The workspace folder."""
        return self.context.home

    @property
    def store(self) -> Store:
        """The workspace database."""
        return self.context.store

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.context.settings

    @property
    def clock(self) -> Clock:
        """The source of time."""
        return self.context.clock

    # -- the seven services ----------------------------------------------------------------------------------

    @cached_property
    def development(self) -> ModelDevelopmentManager:
        """Experiments, runs, model versions, aliases."""
        from mlcycle_nb.development.service import ModelDevelopmentManager
        from mlcycle_nb.stage_knowledge import stage_knowledge

        return ModelDevelopmentManager(self.context, stage_knowledge)

    @cached_property
    def training(self) -> TrainingManager:
        """Training jobs outside the kernel."""
        from mlcycle_nb.training.service import TrainingManager

        return TrainingManager(self.context, self.development)

    @cached_property
    def validation(self) -> ModelValidator:
        """Gates and verdicts."""
        from mlcycle_nb.validation.service import ModelValidator

        return ModelValidator(self.context, self.development)

    @cached_property
    def deployment(self) -> ModelDeploymentManager:
        """Services, rollouts, consumers."""
        from mlcycle_nb.deployment.service import ModelDeploymentManager
        from mlcycle_nb.lifecycle.approvals import Approvals, ApprovingGatekeeper

        approvals = Approvals(self.context, self.development, self.validation)
        gatekeeper = ApprovingGatekeeper(self.context, approvals, self.validation)
        return ModelDeploymentManager(self.context, self.development, gatekeeper)

    @cached_property
    def monitoring(self) -> ModelMonitor:
        """Monitors, drift, alerts."""
        from mlcycle_nb.monitoring.service import ModelMonitor

        return ModelMonitor(self.context, self.development, self.deployment)

    @cached_property
    def retirement(self) -> ModelRetirementManager:
        """Retirements and archives."""
        from mlcycle_nb.retirement.service import ModelRetirementManager

        return ModelRetirementManager(self.context, self.development, self.validation, self.deployment, self.monitoring)

    @cached_property
    def lifecycle(self) -> ModelLifecycleManager:
        """The stages as one state machine."""
        from mlcycle_nb.lifecycle.service import ModelLifecycleManager

        return ModelLifecycleManager(
            self.context,
            self.development,
            self.training,
            self.validation,
            self.deployment,
            self.monitoring,
            self.retirement,
        )

    # -- the whole -------------------------------------------------------------------------------------------

    def status(self) -> WorkspaceStatus:
        """Return everything that is alive."""
        from mlcycle_nb.status import read_status

        return read_status(self.context)

    def doctor(self) -> Diagnosis:
        """Examine the installation: each dependency, its version, licence and state, and how to mend it."""
        from mlcycle_nb.doctor import examine

        return examine(self.context)

    def verify_audit(self) -> AuditVerdict:
        """Verify the audit trail."""
        from mlcycle_nb.store.audit import verify

        return verify(self.store)

    def down(self) -> list[str]:
        """Stop all that this workspace started, and only that; return the names of what was stopped.

        What is declared stays declared: the next magic that needs it starts the supervisor, which brings
        services back.
        """
        from mlcycle_nb.supervisor.sockets import remove_socket_folder
        from mlcycle_nb.supervisor.start import stop_supervisor, take_lock

        stopped = ["supervisor"] if stop_supervisor(self.home) else []
        deadline = time.monotonic() + 10
        while (lock := take_lock(self.home)) is None and time.monotonic() < deadline:
            stop_supervisor(self.home)
            time.sleep(0.05)
        try:
            stopped += self.context.processes.stop_all()
            remove_socket_folder(self.home)
        finally:
            if lock is not None:
                os.close(lock)
        return stopped
