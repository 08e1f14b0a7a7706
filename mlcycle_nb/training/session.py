"""What a worker process knows of its job: its rank, its events, its checkpoints, and whether to stop."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import InvalidInput, did_you_mean
from mlcycle_nb.training.agreement import agreements
from mlcycle_nb.training.checkpointer import Checkpointer
from mlcycle_nb.training.checkpoints import CheckpointStore, KeepPolicy
from mlcycle_nb.training.data import ResumableLoader, evaluation_share
from mlcycle_nb.training.events import EventWriter
from mlcycle_nb.training.heartbeat import flush_with_beats
from mlcycle_nb.training.job_folder import JobFolder, JobSpec
from mlcycle_nb.training.rehearsal import Rehearsal, ShortLoader
from mlcycle_nb.training.trouble import NonFinite, NonFiniteGradient, Trouble, batches_to_skip

if TYPE_CHECKING:
    from mlcycle_nb.training.stop_watch import StopWatch


_PULSE_SECONDS = 0.5
_LOSSES = frozenset({"loss", "train_loss"})


class StopTraining(BaseException):
    """Ends the cell after a committed checkpoint; a BaseException, so that the cell's own handlers let it through."""


class PruneTraining(StopTraining):
    """Ends a trial early, because the search found it to be among the worst."""


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
        flush_with_beats(self.events)
        self.store = CheckpointStore(folder.checkpoints, KeepPolicy(last=spec.keep_last, best=spec.keep_best))
        self.checkpointer = Checkpointer(self.store, accelerator, self.events)
        self.params = Params(spec.params)
        self.epoch = 0
        self.step = 0
        self.driven = False  # whether fit() or batches() count the steps
        self.stop_watch: StopWatch | None = None
        self.batch = 0  # of this rank, in the epoch: the one that is trained on
        self.batches_in_epoch: int | None = None
        self.skips = _read_skips(folder)
        self.stop_asked = False  # set by the SIGTERM handler
        self._stop, self._save = agreements(folder, spec, attempt, "stop", "save")
        self._saved_at = time.monotonic()
        self._pulsed_at = 0.0
        self._runs_ahead = accelerator.device.type != "cpu" and self.world > 1
        self.rehearsal = Rehearsal(self) if spec.rehearsal else None

    def training_batches(self, loader: Any) -> ResumableLoader | ShortLoader:
        """Return this rank's share of a training loader; of a dry run, its beginning."""
        source = ResumableLoader(loader, seed=self.spec.seed, rank=self.rank, world=self.world)
        return source if self.rehearsal is None else self.rehearsal.training(source)

    def validation_batches(self, loader: Any) -> Iterator[Any]:
        """Return this rank's share of a validation loader; of a dry run, its beginning."""
        share = evaluation_share(loader, rank=self.rank, world=self.world)
        return share if self.rehearsal is None else self.rehearsal.validation(share, loader)

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
        for name in _LOSSES & values.keys():
            self.refuse_non_finite(values[name], self.step)
        if self.rehearsal is not None:
            self.rehearsal.sign_of_log()
        if self.spec.trial and not self.driven and self.world == 1:
            self._end_trial_here()

    def _end_trial_here(self) -> None:
        """End a trial whose loop has no other place to look: it tells its metrics, and saves what it wants itself."""
        if self.folder.prune_request.exists():
            raise PruneTraining
        if self.stop_asked:
            raise StopTraining

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

    def pulse(self) -> None:
        """Give a sign of progress where no step is told, such as in a long validation."""
        now = time.monotonic()
        if now - self._pulsed_at >= _PULSE_SECONDS:
            self._pulsed_at = now
            os.utime(self.folder.events_of(self.rank))

    def saved_at_the_end(self) -> dict[str, Any]:
        """Return the step of the newest checkpoint, and why there is none of the last step when there should be."""
        newest = self.store.records()[:1]
        return {"checkpoint": newest[0].step if newest else None, "unsaved": self.checkpointer.failure}

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

    def prune_due(self) -> bool:
        """Tell, at the end of an epoch, whether the search has this trial end; the same answer on every rank."""
        if not self.spec.trial:
            return False
        asked = self.folder.prune_request.exists()
        if self.world == 1:
            return asked
        import torch

        votes = torch.tensor([float(asked and self.main)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(votes, reduction="sum").item())

    def refuse_non_finite(self, loss: float, step: int) -> None:
        """Raise when `loss` is NaN or infinite: such a step is never saved and never best."""
        if not math.isfinite(loss):
            raise self.placed(
                NonFinite(
                    f"the loss became {loss} at step {step} of epoch {self.epoch + 1} on rank {self.rank}",
                    remedy="lower the learning rate, clip gradients (clip_norm=1.0), or look for bad rows in the data",
                )
            )

    def refuse_non_finite_gradient(self, norm: float, step: int) -> None:
        """Raise when the norm of the gradients is NaN or infinite, unless that is to be ignored."""
        if math.isfinite(norm):
            return
        problem = f"the gradient's norm became {norm} at step {step} of epoch {self.epoch + 1} on rank {self.rank}"
        if self.spec.on_trouble["non_finite_gradient"] == "ignore":
            self.events.write("trouble", cause="non_finite_gradient", step=step, epoch=self.epoch, message=problem)
            return
        remedy = "lower the learning rate, use --mixed-precision bf16 or no, or look for bad rows in the data"
        raise self.placed(NonFiniteGradient(problem, remedy=remedy))

    def placed(self, trouble: Trouble) -> Trouble:
        """Note in `trouble` which batches to pass over, should training go on before them."""
        accumulation = self.spec.gradient_accumulation
        trouble.skip = (self.epoch, *batches_to_skip(self.batch, self.batches_in_epoch, accumulation))
        return trouble

    def skipped(self, batch: int) -> bool:
        """Tell whether a batch of this epoch is passed over after a roll-back."""
        return any(epoch == self.epoch and first <= batch <= last for epoch, first, last in self.skips)


def _read_skips(folder: JobFolder) -> list[tuple[int, int, int]]:
    try:
        return [(epoch, first, last) for epoch, first, last in json.loads(folder.skips.read_text())]
    except FileNotFoundError:
        return []
