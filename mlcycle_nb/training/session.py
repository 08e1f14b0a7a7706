"""What a worker process knows of its job: its rank, its events, its checkpoints, and whether to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

from mlcycle_nb.errors import InvalidInput, did_you_mean
from mlcycle_nb.training.agreement import Agreement
from mlcycle_nb.training.checkpointer import Checkpointer
from mlcycle_nb.training.checkpoints import CheckpointStore, KeepPolicy
from mlcycle_nb.training.events import EventWriter
from mlcycle_nb.training.job_folder import JobFolder, JobSpec


class StopTraining(BaseException):
    """Ends the cell after a committed checkpoint; a BaseException, so that the cell's own handlers let it through."""


class NonFinite(InvalidInput):
    """A loss or a weight is NaN or infinite."""


class Params(Mapping[str, Any]):
    """The values given by ``--param``: ``params.lr`` or ``params["lr"]``, and ``params.get("lr", 0.1)``."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__["_values"] = dict(values)

    def __getitem__(self, name: str) -> Any:
        values: dict[str, Any] = self.__dict__["_values"]
        if name not in values:
            raise InvalidInput(
                f"there is no parameter {name!r}",
                remedy=f"{did_you_mean(name, values)}give --param {name}=VALUE, or use params.get({name!r}, DEFAULT)",
            )
        return values[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a parameter, or `default` when it was not given."""
        return self.__dict__["_values"].get(name, default)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        raise InvalidInput("parameters are set by --param, not in the cell", value=name)

    def __contains__(self, name: object) -> bool:
        return name in self.__dict__["_values"]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__["_values"])

    def __len__(self) -> int:
        return len(self.__dict__["_values"])

    def __repr__(self) -> str:
        return "params(" + ", ".join(f"{name}={value!r}" for name, value in self.items()) + ")"


class TrainingSession:
    """State shared by everything that the cell can call.

    Parameters
    ----------
    folder : JobFolder
        The job's folder.
    spec : JobSpec
        What was asked for.
    accelerator : accelerate.Accelerator
        The process group, already formed.
    attempt : int
        Counts the launches of this job from 1.
    """

    def __init__(self, folder: JobFolder, spec: JobSpec, accelerator: Any, attempt: int) -> None:
        self.folder, self.spec, self.accelerator, self.attempt = folder, spec, accelerator, attempt
        self.rank: int = accelerator.process_index
        self.world: int = accelerator.num_processes
        self.main: bool = self.rank == 0
        self.events = EventWriter(folder.events_of(self.rank), rank=self.rank, attempt=attempt)
        store = CheckpointStore(folder.checkpoints, KeepPolicy(last=spec.keep_last, best=spec.keep_best))
        self.checkpointer = Checkpointer(store, accelerator, self.events)
        self.params = Params(spec.params)
        self.epoch = 0
        self.step = 0
        self.driven = False  # whether fit() or batches() count the steps
        self.stop_asked = False  # set by the SIGTERM handler
        self._stop = Agreement(folder.run / f"stop-{attempt}")
        self._save = Agreement(folder.run / f"save-{attempt}")
        self._saved_at = time.monotonic()
        self._runs_ahead = accelerator.device.type != "cpu" and self.world > 1

    def log(self, **metrics: float) -> None:
        """Record metrics of the current step; in several processes the values of rank 0 count."""
        if not metrics:
            raise InvalidInput("log() needs metrics, such as log(val_accuracy=0.93)")
        values: dict[str, float] = {}
        for name, value in metrics.items():
            number = value.item() if hasattr(value, "item") else value
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise InvalidInput(f"metric {name!r} is not a number", value=number)
            values[name] = float(number)
        if not self.driven:
            self.step += 1
        if self.main:
            self.events.write("metrics", epoch=self.epoch, step=self.step, values=values)

    def save_due(self) -> bool:
        """Tell, at the end of a step, whether all ranks save now; the same answer on every rank."""
        every = self.spec.checkpoint_every_steps
        if every:
            return self.step % every == 0
        standing = self._save.standing()
        if standing is not None and standing == self.step:
            return True
        late = time.monotonic() - self._saved_at >= self.spec.checkpoint_every_seconds
        if self.main and late and standing is None and not self.checkpointer.busy:
            self._save.propose(self.step + 1)
        return False

    def saved(self) -> None:
        """Note that a checkpoint was taken."""
        self._saved_at = time.monotonic()
        if self.main:
            self._save.withdraw()

    def stop_due(self) -> bool:
        """Tell, at the end of a step, whether all ranks stop now; the same answer on every rank.

        Called before `save_due`, so that both look from the same place.
        """
        if self._runs_ahead:  # a GPU's host may be steps ahead of its all-reduce, on which agreements rest
            import torch

            torch.cuda.current_stream().synchronize()
        standing = self._stop.standing()
        if standing is not None:
            return standing <= self.step
        if self.stop_asked:
            if self.world == 1:
                return True
            self._stop.propose(self.step + 1)
        return False

    def refuse_non_finite(self, loss: float, step: int) -> None:
        """Raise when `loss` is NaN or infinite: such a step is never saved and never best."""
        if not math.isfinite(loss):
            raise NonFinite(
                f"the loss became {loss} at step {step} of epoch {self.epoch + 1} on rank {self.rank}",
                remedy="lower the learning rate, clip gradients (clip_norm=1.0), or look for bad rows in the data",
            )
