"""``epochs``, ``batches`` and ``checkpoint``: resuming for loops that the cell writes itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.training import random_state
from mlcycle_nb.training.data_workers import kept_up, raise_only_when_asked
from mlcycle_nb.training.session import PruneTraining, StopTraining

if TYPE_CHECKING:
    from mlcycle_nb.training.session import TrainingSession


class FreeForm:
    """The parts of a hand-written loop in one worker process."""

    def __init__(self, session: TrainingSession) -> None:
        self._session = session
        self._objects: dict[str, Any] = {}
        self._batch = 0
        self._resumed: Mapping[str, Any] | None = None
        self._inside = False
        self._owed = False  # a save fell due while gradients were being accumulated

    def save_for_rehearsal(self) -> None:
        """Take the checkpoint of a dry run, unless the loop has nothing that could be saved."""
        accelerator = self._session.accelerator
        if not self._objects and not accelerator._models:
            return
        self._objects = self._objects or self._prepared()
        self._save(self._session.epoch, self._batch, None)

    def epochs(self, count: int | None = None, **objects: Any) -> Iterator[int]:
        """Yield the epochs that are left, from 0; restore before the first and save after each.

        Parameters
        ----------
        count : int, optional
            How many in all; ``--epochs`` by default.
        **objects
            What to save and restore: anything with ``state_dict`` and ``load_state_dict``. By default, everything
            that went through ``accelerator.prepare``.
        """
        session = self._session
        total = session.spec.epochs if count is None else count
        if isinstance(total, bool) or not isinstance(total, int) or total < 1:
            raise InvalidInput("epochs must be a whole number from 1", value=total)
        self._objects = objects or self._prepared()
        random_state.seed_everything(random_state.rank_seed(session.spec.seed, session.rank))
        found = session.checkpointer.restore(self._objects)
        first = 0
        if found is not None:
            first, self._batch, session.step, self._resumed = found["epoch"], found["batch"], found["step"], found
            if not self._batch:
                session.checkpointer.put_random_back(found)
        if session.main:
            session.events.write("fit", epochs=total, total_steps=None, epoch=first, step=session.step)
        if session.rehearsal is not None:
            session.rehearsal.epochs = total
        for epoch in range(first, total):
            session.epoch, self._inside, before = epoch, True, session.step
            yield epoch
            self._inside, self._resumed, self._batch = False, None, 0
            if session.rehearsal is not None:
                session.rehearsal.end()
            if session.step == before:  # a loop that tells nothing: each epoch is a step, so that newer is higher
                session.step += 1
            self._save_between_updates(epoch + 1, 0, due=True, last=epoch + 1 == total)
            session.checkpointer.wait()
            if epoch + 1 < total and session.prune_due():
                raise PruneTraining
            if epoch + 1 < total and not self._owed and session.stop_due():
                raise StopTraining
        session.checkpointer.wait()
        if session.main:
            session.events.write("trained", epoch=session.epoch, step=session.step)

    def batches(self, loader: Any) -> Iterator[Any]:
        """Yield this process's batches of the current epoch, on its device, from where training stands.

        Give the DataLoader as it was made: one that went through ``accelerator.prepare`` is divided already. The
        body of the loop is one optimizer step; after a resume the batches that were trained on do not come again.
        """
        session = self._session
        if type(loader).__module__.startswith("accelerate."):
            raise InvalidInput(
                "batches() needs the DataLoader before accelerator.prepare",
                value=type(loader).__name__,
                remedy="leave the loader out of accelerator.prepare(...)",
            )
        if not self._inside:
            raise InvalidInput("batches() belongs into a loop over epochs()", remedy="for epoch in epochs(): ...")
        session.driven = True
        source = session.training_batches(loader)
        session.batches_in_epoch = source.length(session.epoch)
        raise_only_when_asked()
        first = source.start(session.epoch, self._batch)
        batches = kept_up(session, first, lambda: source.restart(session.epoch, self._batch))
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            session.checkpointer.put_random_back(resumed)
        for batch in batches:
            session.batch = self._batch
            if session.skips and session.skipped(self._batch):
                self._batch += 1
                continue
            self._batch += 1  # before the body, so that a checkpoint() inside it counts this batch as trained on
            session.step += 1
            yield _on_device(batch, session.accelerator.device)
            session.checkpointer.finish_if_done()
            if session.stop_due() and session.accelerator.sync_gradients:
                self._save(session.epoch, self._batch, None)
                session.checkpointer.wait()
                raise StopTraining
            self._save_between_updates(session.epoch, self._batch, due=session.save_due())
        if session.rehearsal is not None:
            session.rehearsal.end()

    def checkpoint(self, metric: float | None = None, *, higher_is_better: bool = False, **objects: Any) -> None:
        """Save now, every process at the same place; with a metric the best ones are kept.

        Inside a loop over ``batches()`` the current batch counts as trained on: call it after ``optimizer.step()``.
        """
        if objects:
            self._objects = objects
        elif not self._objects:
            self._objects = self._prepared()
        self._save(self._session.epoch, self._batch, metric, lower_is_better=not higher_is_better)

    def _save_between_updates(self, epoch: int, batch: int, *, due: bool, last: bool = False) -> None:
        """Save when it is due, but not while ``accelerator.accumulate`` holds gradients, which no checkpoint has."""
        self._owed = self._owed or due
        if self._owed and (last or self._session.accelerator.sync_gradients):
            self._save(epoch, batch, None)

    def _save(self, epoch: int, batch: int, metric: float | None, *, lower_is_better: bool = True) -> None:
        session = self._session
        session.checkpointer.save(
            self._objects,
            step=session.step,
            epoch=epoch,
            cursor={"epoch": epoch, "batch": batch, "step": session.step},
            metric=None if metric is None else float(metric),
            lower_is_better=lower_is_better,
        )
        session.saved()
        self._owed = False

    def _prepared(self) -> dict[str, Any]:
        accelerator = self._session.accelerator
        found: dict[str, Any] = {}
        for kind, holders in (
            ("model", accelerator._models),
            ("optimizer", accelerator._optimizers),
            ("scheduler", accelerator._schedulers),
        ):
            for position, holder in enumerate(holders):
                found[kind if position == 0 else f"{kind}{position + 1}"] = holder
        if not found:
            raise InvalidInput(
                "there is nothing to save or restore",
                remedy="call accelerator.prepare(model, optimizer) before epochs(), or epochs(model=model, ...)",
            )
        if accelerator.scaler is not None:
            found["scaler"] = accelerator.scaler
        return found


def _on_device(batch: Any, device: Any) -> Any:
    if device.type == "cpu":
        return batch
    from accelerate.utils import send_to_device

    return send_to_device(batch, device, non_blocking=True)
