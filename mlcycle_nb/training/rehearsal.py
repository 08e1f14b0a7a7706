"""A dry run as one rank sees it: two batches of the real loop, timed; then a checkpoint, and the end.

The loop itself is the one that trains. It is only given loaders that end after two batches, so the second batch counts
as the last of its epoch: an update whatever the gradient accumulation, the validation metrics, a checkpoint.
"""

from __future__ import annotations

import itertools
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from mlcycle_nb.supervisor.identity import ProcessIdentity
from mlcycle_nb.training.batch import sample_count

if TYPE_CHECKING:
    from mlcycle_nb.training.data import ResumableLoader
    from mlcycle_nb.training.session import TrainingSession

BATCHES = 2
"""Batches of each rank in a dry run."""


class Rehearsal:
    """Watches over a dry run in one worker process.

    Attributes
    ----------
    save : callable, optional
        Takes a checkpoint of a loop that counts no batches, where there is something to save.
    """

    def __init__(self, session: TrainingSession) -> None:
        self._session = session
        self.save: Callable[[], None] | None = None
        self.epochs: int | None = None
        self.full_batches: int | None = None  # of this rank in a whole epoch
        self.full_validation: int | None = None
        self._training: list[tuple[int | None, float]] = []  # rows, seconds
        self._validation: list[float] = []
        self._optimizes = False
        self._sign_at = time.monotonic()

    # -- what the loops call ---------------------------------------------------------------------------------

    def training(self, source: ResumableLoader) -> ShortLoader:
        """Return the first batches of a loader, timed, and note how many there would be."""
        self.full_batches = source.length(0)
        return ShortLoader(source, self._timed_training)

    def validation(self, batches: Iterable[Any], loader: Any) -> Iterator[Any]:
        """Return the first of this rank's validation batches, timed."""
        try:
            self.full_validation = -(-len(loader) // self._session.world)
        except TypeError:  # nobody knows
            self.full_validation = None
        return self._timed(batches, lambda rows, seconds: self._validation.append(seconds))

    def sign_of_log(self) -> None:
        """Note that a loop of unknown shape told a metric: its step, where no torch optimizer is stepped."""
        if not self._optimizes:
            self._sign()

    def sign_of_optimizer(self) -> None:
        """Note that a loop of unknown shape stepped an optimizer."""
        if not self._optimizes:
            self._optimizes, self._training = True, []
        self._sign()

    def _sign(self) -> None:
        if self._session.driven:
            return
        now = self._now()
        self._training.append((None, now - self._sign_at))
        self._sign_at = now
        if len(self._training) >= BATCHES:
            self.end()

    def end(self, *, saved: bool = False) -> None:
        """Take a checkpoint where the loop has something to save and did not do it itself, and end the cell."""
        from mlcycle_nb.training.session import StopTraining

        if self.save is not None and not saved:
            self.save()
        self._session.checkpointer.wait()
        raise StopTraining

    # -- what the worker calls -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Watch optimizers, for loops that call neither fit() nor batches(), and end with whoever asked for it."""
        import torch
        from torch.optim.optimizer import register_optimizer_step_post_hook

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

        def after_step(optimizer: Any, arguments: Any, options: Any) -> None:
            if not self._session.driven:
                self.sign_of_optimizer()

        register_optimizer_step_post_hook(after_step)
        threading.Thread(target=self._end_with_owner, name="owner-watch", daemon=True).start()

    def report(self) -> None:
        """Tell what was measured in this rank."""
        import torch

        device = self._session.accelerator.device
        cuda = device.type == "cuda"
        self._session.events.write(
            "rehearsal",
            batches=self._training,
            validation_seconds=self._validation,
            epochs=self.epochs,
            full_batches=self.full_batches,
            full_validation=self.full_validation,
            counted=self._session.driven,
            memory_bytes=peak_memory_bytes(),
            gpu_bytes=torch.cuda.max_memory_allocated(device) if cuda else None,
            gpu_reserved_bytes=torch.cuda.max_memory_reserved(device) if cuda else None,
            gpu=torch.cuda.get_device_name(device) if cuda else None,
        )

    # -- parts -----------------------------------------------------------------------------------------------

    def _timed_training(self, batches: Iterable[Any]) -> Iterator[Any]:
        return self._timed(batches, lambda rows, seconds: self._training.append((rows, seconds)))

    def _timed(self, batches: Iterable[Any], note: Callable[[int, float], None]) -> Iterator[Any]:
        began = time.monotonic()
        for batch in itertools.islice(batches, BATCHES):
            rows = sample_count(batch)
            yield batch
            now = self._now()
            note(rows, now - began)
            began = now

    def _now(self) -> float:
        if self._session.accelerator.device.type == "cuda":  # what was started there counts when it is done
            import torch

            torch.cuda.synchronize()
        return time.monotonic()

    def _end_with_owner(self) -> None:
        pid, _, started = self._session.spec.rehearsal.partition(" ")
        owner = ProcessIdentity(int(pid), started)
        while owner.alive():
            time.sleep(0.5)
        os._exit(1)


class ShortLoader:
    """The beginning of a loader, in the shape that the loops use."""

    def __init__(self, source: ResumableLoader, timed: Callable[[Iterable[Any]], Iterator[Any]]) -> None:
        self._source, self._timed = source, timed

    def length(self, epoch: int) -> int | None:
        """Return how many batches come."""
        length = self._source.length(epoch)
        return None if length is None else min(length, BATCHES)

    def start(self, epoch: int, batch: int = 0) -> Iterator[Any]:
        """Return an iterator over them."""
        return self._timed(self._source.start(epoch, batch))

    def restart(self, epoch: int, batch: int) -> Iterator[Any]:
        """Return an iterator over them from new data workers."""
        return self._timed(self._source.restart(epoch, batch))


def peak_memory_bytes() -> int:
    """Return the most memory that this process ever had resident."""
    try:
        with open("/proc/self/status", encoding="ascii") as source:
            for line in source:
                if line.startswith("VmHWM:"):  # of this program alone; getrusage also counts what it was forked from
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
