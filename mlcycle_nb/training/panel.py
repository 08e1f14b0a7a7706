"""The panel of a training job: progress, curves, ranks, checkpoints, and what it prints."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlcycle_nb.notebook.panel import Action, Panel
from mlcycle_nb.training import faces
from mlcycle_nb.training.charts import metric_charts
from mlcycle_nb.training.faces import TrainingState

if TYPE_CHECKING:
    from mlcycle_nb.training.service import TrainingManager

__all__ = ["TrainingPanel", "TrainingState"]
_PRINTED_LINES = 12


class TrainingPanel(Panel[TrainingState]):
    """Shows one job; made again from its id in any kernel."""

    def __init__(self, training: TrainingManager, job: str) -> None:
        super().__init__()
        self._training = training
        self._job = job
        self._follower = training.follow(job)

    def title(self) -> str:
        """Return the job's name."""
        return f"training {self._job}"

    def snapshot(self) -> TrainingState:
        """Read the record, then the rest: what ended is complete."""
        job = self._training.job(self._job)
        follower = self._follower
        return TrainingState(
            job,
            follower.progress(),
            follower.beats(),
            tuple(follower.checkpoints()),
            tuple(follower.printed(job.processes, _PRINTED_LINES)),
            time.time(),
        )

    def finished(self, state: TrainingState) -> bool:
        """Return whether the job has ended, and all its checkpoints on the disk were looked at."""
        return not state.job.active and all(whole is not None for _, whole in state.checkpoints[:1])

    def tend(self) -> None:
        """Bring the supervisor back should it have been killed: somebody watches, and expects the job to go on."""
        self._training.tend(self._job)

    # -- faces -----------------------------------------------------------------------------------------------

    def text(self, state: TrainingState) -> str:
        """Return a few plain lines."""
        return faces.text(state)

    def html(self, state: TrainingState) -> str:
        """Return the same as tables, with ranks, checkpoints and the last printed lines."""
        return faces.html(state, self.CHARTS_HERE)

    def charts(self, state: TrainingState) -> Sequence[Any]:
        """Return a chart of the loss, and one for each of the first other metrics."""
        return metric_charts(state.progress)

    def actions(self, state: TrainingState) -> Sequence[Action]:
        """Return a stop button while it runs, and one that takes it up again when it was stopped or has failed."""
        job = state.job
        if job.active:
            if job.stop_requested_at is not None:
                return ()
            return (Action("Stop", lambda: self._training.stop(self._job), "danger"),)
        if job.phase == "finished":
            return ()
        return (Action("Resume", lambda: self._training.resume(self._job), "success"),)
