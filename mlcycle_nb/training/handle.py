"""The handle of a training job."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import JobFailed
from mlcycle_nb.notebook.handle import Handle
from mlcycle_nb.training.records import TrainingJob

if TYPE_CHECKING:
    from mlcycle_nb.development.records import ModelVersion
    from mlcycle_nb.training.service import TrainingManager


class TrainingHandle(Handle[TrainingJob]):
    """A job that goes on by itself: show it, wait for it, stop it, register what it trained.

    Attributes
    ----------
    attached : bool
        Whether the job was running already when the cell was run.
    resumed_from : int, optional
        The step of the checkpoint from which a stopped job goes on.
    """

    def __init__(
        self,
        training: TrainingManager,
        job: str,
        *,
        attached: bool = False,
        resumed_from: int | None = None,
        sustain: Callable[[], None] | None = None,
    ) -> None:
        from mlcycle_nb.training.panel import TrainingPanel

        self._training = training
        self.attached = attached
        self.resumed_from = resumed_from
        super().__init__(
            job,
            read=lambda: training.job(job),
            done=lambda record: not record.active,
            panel=lambda: TrainingPanel(training, job),
            sustain=sustain,
        )

    def stop(self, reason: str = "") -> TrainingJob:
        """Ask for a checkpoint and the end."""
        return self._training.stop(self.id, reason=reason)

    def logs(self, rank: int | None = None, lines: int = 200) -> str:
        """Return the end of what the workers printed."""
        return self._training.logs(self.id, rank=rank, lines=lines)

    def result(self, timeout: float | None = None) -> TrainingJob:
        """Wait and return the finished job.

        Raises
        ------
        JobFailed
            With the error of the cell, its line and the rank.
        """
        return raise_if_failed(self.wait(timeout))

    def register(self, **options: Any) -> ModelVersion:
        """Wait, then package and register the trained model; see `TrainingManager.register`."""
        self.result()
        return self._training.register(self.id, **options)


def raise_if_failed(job: TrainingJob) -> TrainingJob:
    """Return `job`, or raise what made it fail."""
    if job.failure is not None:
        failure = job.failure
        ranks = f" on {failure.ranks}" if failure.ranks else ""
        problem = f"training {job.id} failed{ranks}: {failure.message}"
        raise JobFailed(problem, where=failure.place, remedy=f"%train logs {job.id}", traceback=failure.traceback)
    return job
