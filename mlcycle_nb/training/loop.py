"""``fit``: the built-in training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.training import random_state
from mlcycle_nb.training.batch import default_forward, default_metrics, sample_count
from mlcycle_nb.training.data_workers import kept_up, raise_only_when_asked
from mlcycle_nb.training.early_stopping import EarlyStopping, Patience
from mlcycle_nb.training.session import PruneTraining, StopTraining
from mlcycle_nb.training.spikes import SpikeDetector
from mlcycle_nb.training.trouble import LossSpike

if TYPE_CHECKING:
    from mlcycle_nb.training.session import TrainingSession

Forward = Callable[[Any, Any], tuple[Any, Any]]
_LOOK_EVERY_STEPS = 50
_PER_STEP_SCHEDULERS = frozenset({"OneCycleLR", "CyclicLR"})
_HIGHER_IS_BETTER = ("accuracy", "f1", "precision", "recall", "auc", "r2", "score")


@dataclass(slots=True)
class Cursor:
    """Where training stands; all of it is in each checkpoint."""

    epoch: int = 0
    batch: int = 0  # of this rank, in the epoch
    step: int = 0  # optimizer steps of all epochs
    loss_sum: float = 0.0  # of this epoch, on this rank
    samples: int = 0


class Fit:
    """One run of `fit` in one worker process."""

    def __init__(
        self,
        session: TrainingSession,
        model: Any,
        optimizer: Any,
        train_loader: Any,
        val_loader: Any,
        *,
        loss: Callable[..., Any],
        scheduler: Any,
        epochs: int | None,
        metrics: Mapping[str, Callable[..., Any]] | None,
        forward: Forward | None,
        on_checkpoint: Callable[[Any], None] | None,
        best: str | None,
        higher_is_better: bool | None,
        clip_norm: float | None,
        scheduler_step: str,
        early_stopping: int | EarlyStopping | None = None,
    ) -> None:
        self.session = session
        self.epochs = session.spec.epochs if epochs is None else epochs
        self.loss, self.forward = loss, forward or default_forward
        self.metrics, self.on_checkpoint, self.clip_norm = metrics, on_checkpoint, clip_norm
        self.scheduler, self.val_loader = scheduler, val_loader
        self.step_scheduler_each = _check_fit(model, optimizer, scheduler, self.epochs, loss, metrics, scheduler_step)
        self.loader = session.training_batches(train_loader)
        self.best_name = best or ("val_loss" if val_loader is not None else "train_loss")
        self.higher_is_better = (
            self.best_name.endswith(_HIGHER_IS_BETTER) if higher_is_better is None else higher_is_better
        )
        self.spikes = SpikeDetector() if session.spec.on_trouble["loss_spike"] != "ignore" else None
        self.patience = self._patience(EarlyStopping.of(early_stopping))
        self.bare_model = model
        accelerator = session.accelerator
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        # Without a gradient scaler Accelerate's step and backward are torch's own, behind two searches for a package
        # on the import path at every step, which took a sixth of a short step.
        self.plain = accelerator.scaler is None
        self.stepper = self.optimizer.optimizer if self.plain else self.optimizer
        self.mixed = accelerator.mixed_precision != "no"
        self.objects = {"model": self.model, "optimizer": self.optimizer}
        if scheduler is not None:
            self.objects["scheduler"] = scheduler
        if accelerator.scaler is not None:
            self.objects["scaler"] = accelerator.scaler
        self.cursor = Cursor()
        self.pending: list[tuple[int, Any, int, bool]] = []
        self.newest_loss: Any = None
        self.window: list[tuple[float, int]] = []  # losses and rows of the batches since the last update

    def run(self) -> None:
        """Train from the newest checkpoint, or from the start, to the last epoch."""
        session = self.session
        random_state.seed_everything(random_state.rank_seed(session.spec.seed, session.rank))
        found = session.checkpointer.restore(self.objects)
        resumed = None
        if found is not None:
            resumed = found
            saved = found["ranks"][session.rank]
            self.cursor = Cursor(found["epoch"], found["batch"], found["step"], saved["loss_sum"], saved["samples"])
            if self.spikes is not None and saved.get("spikes"):
                self.spikes.restore(saved["spikes"])
            if self.patience is not None:
                self.patience.restore(found.get("patience"))
        total = self._total_steps()
        if session.main:
            session.events.write(
                "fit",
                epochs=self.epochs,
                total_steps=total,
                epoch=self.cursor.epoch,
                step=self.cursor.step,
                best=self.best_name,
                higher_is_better=self.higher_is_better,
            )
        if session.rehearsal is not None:
            self._rehearse()
        while not self._done():
            self._epoch(resumed)
            resumed = None
        session.checkpointer.wait()
        if session.main:
            session.events.write("trained", epoch=self.cursor.epoch, step=self.cursor.step)
        if self.patience is not None and self.patience.over and session.main:
            reason = self.patience.reason
            session.events.write("ended_early", epoch=self.cursor.epoch - 1, step=self.cursor.step, reason=reason)

    def _rehearse(self) -> None:
        rehearsal = self.session.rehearsal
        assert rehearsal is not None  # the caller looked
        rehearsal.epochs = self.epochs
        self.on_checkpoint = None  # it may publish what it is given
        self._epoch(None)
        rehearsal.end(saved=True)

    def _done(self) -> bool:
        return self.cursor.epoch >= self.epochs or (self.patience is not None and self.patience.over)

    def _patience(self, rule: EarlyStopping | None) -> Patience | None:
        if rule is None:
            return None
        name = rule.metric or self.best_name
        upwards = self.higher_is_better if name == self.best_name else name.endswith(_HIGHER_IS_BETTER)
        return Patience(rule, name, higher_is_better=upwards)

    # -- one epoch -------------------------------------------------------------------------------------------

    def _epoch(self, resumed: Mapping[str, Any] | None) -> None:
        session, cursor, accelerator = self.session, self.cursor, self.session.accelerator
        session.epoch, session.step = cursor.epoch, cursor.step
        self.model.train()
        length = self.loader.length(cursor.epoch)
        session.batches_in_epoch = length
        raise_only_when_asked()
        first = self.loader.start(cursor.epoch, cursor.batch)
        batches = kept_up(session, first, lambda: self.loader.restart(cursor.epoch, cursor.batch))
        if resumed is not None:
            session.checkpointer.put_random_back(resumed)
        accumulation, update = session.spec.gradient_accumulation, True
        for batch in batches:
            if session.skips and session.skipped(cursor.batch):
                cursor.batch += 1
                continue
            session.batch = cursor.batch
            moved = _to_device(batch, accelerator.device)
            last = length is not None and cursor.batch + 1 == length
            update = (cursor.batch + 1) % accumulation == 0 or last
            loss, samples = self._backward(moved, update)
            cursor.batch += 1
            if not update:
                self._note(cursor.step + 1, loss, samples, updated=False)
                continue
            self._update()
            cursor.step += 1
            session.step = cursor.step
            self._note(cursor.step, loss, samples)
            session.checkpointer.finish_if_done()
            if session.stop_due():
                self._save(None)
                session.checkpointer.wait()
                raise StopTraining
            if not last and session.save_due():
                self._save(None)
        if not update:  # data whose length nobody told have ended between two updates
            self._update_late()
        self._flush()
        self._end_of_epoch()

    def _backward(self, batch: Any, update: bool) -> tuple[Any, int]:
        accelerator = self.session.accelerator
        if self.session.spec.gradient_accumulation > 1:
            accelerator.gradient_state._set_sync_gradients(update)
        if update or self.session.world == 1:
            return self._forward_backward(batch)
        with accelerator.no_sync(self.model):
            return self._forward_backward(batch)

    def _forward_backward(self, batch: Any) -> tuple[Any, int]:
        accelerator = self.session.accelerator
        with accelerator.autocast() if self.mixed else nullcontext():
            output, target = self.forward(self.model, batch)
            loss = self.loss(output, target)
        if not self.plain:
            accelerator.backward(loss)  # divides by the accumulation steps
        elif self.session.spec.gradient_accumulation > 1:
            (loss / self.session.spec.gradient_accumulation).backward()
        else:
            loss.backward()
        self.newest_loss = loss.detach()
        return self.newest_loss, sample_count(batch)

    def _update(self) -> None:
        if self.clip_norm is not None:
            norm = self.session.accelerator.clip_grad_norm_(self.model.parameters(), self.clip_norm)
            self._look_at(norm)
        elif self.plain and self.cursor.step % _LOOK_EVERY_STEPS == 0:
            self._look_at(_gradient_norm(self.model))
        self.stepper.step()
        self.stepper.zero_grad()
        if self.scheduler is not None and self.step_scheduler_each:
            self.scheduler.step()

    def _look_at(self, norm: Any) -> None:
        """Refuse a norm of the gradients that is not finite; a scaler passes over such steps by itself."""
        if not self.plain or norm is None:
            return
        if norm.device.type == "cpu" or self.session.events.due():  # on a GPU looking means waiting for it
            value, step = norm.item(), self.cursor.step + 1
            if not math.isfinite(value) and self.newest_loss is not None:
                # Where the loss is not finite either, it is the cause, and is named instead.
                self.session.refuse_non_finite(self.newest_loss.item(), step)
            self.session.refuse_non_finite_gradient(value, step)

    def _update_late(self) -> None:
        if self.session.world > 1:  # the last backward passes did not know that they had to share
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad = self.session.accelerator.reduce(parameter.grad, reduction="mean")
        self.session.accelerator.gradient_state._set_sync_gradients(True)
        self._update()
        self.cursor.step += 1
        self.session.step = self.cursor.step
        self._flush()
        self._tell(self.cursor.step)

    def _note(self, step: int, loss: Any, samples: int, *, updated: bool = True) -> None:
        """Keep a loss; on the CPU it is looked at now, on a GPU a few times a second, so as not to wait for it."""
        if loss.device.type == "cpu":
            self._count(step, loss.item(), samples, updated)
            return
        self.pending.append((step, loss, samples, updated))
        if self.session.events.due():
            self._flush()

    def _flush(self) -> None:
        import torch

        if self.pending:
            values = torch.stack([loss for _, loss, *_ in self.pending]).float().tolist()
            noted, self.pending = self.pending, []
            for (step, _, samples, updated), value in zip(noted, values, strict=True):
                self._count(step, value, samples, updated)

    def _count(self, step: int, loss: float, samples: int, updated: bool) -> None:
        cursor = self.cursor
        if not math.isfinite(loss):
            self.session.events.step(cursor.epoch, step, loss, samples)
            self.session.refuse_non_finite(loss, step)
        if self.spikes is not None and self.spikes.take(loss):
            self.session.events.step(cursor.epoch, step, loss, samples)
            median = self.spikes.median()
            problem = f"the loss of rank {self.session.rank} rose to {loss:.4g} at step {step}, from about {median:.4g}"
            raise self.session.placed(
                LossSpike(problem, remedy="lower the learning rate, or go back: --on-trouble loss_spike=rollback")
            )
        cursor.loss_sum += loss * samples
        cursor.samples += samples
        self.window.append((loss, samples))
        if updated:
            self._tell(step)

    def _tell(self, step: int) -> None:
        """Log the loss of a step: of all batches that its update was made from."""
        parts, self.window = self.window, []
        rows = sum(samples for _, samples in parts)
        loss = parts[0][0] if len(parts) == 1 else sum(loss * samples for loss, samples in parts) / max(rows, 1)
        self.session.events.step(self.cursor.epoch, step, loss, rows)

    # -- between epochs --------------------------------------------------------------------------------------

    def _end_of_epoch(self) -> None:
        session, cursor = self.session, self.cursor
        loss_sum, samples = self._sum([cursor.loss_sum, float(cursor.samples)])
        if not samples:
            raise InvalidInput("the training loader gave no batch", remedy="look at its length and drop_last")
        values = {"train_loss": loss_sum / samples}
        if self.val_loader is not None:
            values |= {f"val_{name}": value for name, value in self._evaluate().items()}
        values["lr"] = float(self.optimizer.param_groups[0]["lr"])
        if self.scheduler is not None and not self.step_scheduler_each:
            self._step_scheduler(values)
        metric = self._metric(values, self.best_name)
        if self.patience is not None:
            self.patience.take(self._metric(values, self.patience.metric), cursor.epoch)
        if session.main:
            session.events.write("epoch", epoch=cursor.epoch, step=cursor.step, values=values)
        for name, value in values.items():
            if name.endswith("loss") and not math.isfinite(value):
                session.refuse_non_finite(value, cursor.step)
        self.cursor = Cursor(epoch=cursor.epoch + 1, step=cursor.step)
        self._save(metric)
        if not self._done() and session.prune_due():
            session.checkpointer.wait()
            raise PruneTraining
        if not self._done() and session.stop_due():
            session.checkpointer.wait()
            raise StopTraining

    @staticmethod
    def _metric(values: Mapping[str, float], name: str) -> float:
        if name not in values:
            raise InvalidInput(f"there is no metric {name!r}", remedy=f"known: {', '.join(sorted(values))}")
        return values[name]

    def _step_scheduler(self, values: Mapping[str, float]) -> None:
        if type(self.scheduler).__name__ == "ReduceLROnPlateau":
            self.scheduler.step(values.get("val_loss", values["train_loss"]))
        else:
            self.scheduler.step()

    def _evaluate(self) -> dict[str, float]:
        import torch

        session = self.session
        model = session.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        metrics = self.metrics
        # The same names on every rank: one without validation batches cannot know the default metrics.
        names = ["loss", *(("accuracy",) if metrics is None else metrics)]
        totals = dict.fromkeys(names, 0.0)
        seen = dict.fromkeys(names, 0.0)
        with torch.no_grad():
            for batch in session.validation_batches(self.val_loader):
                session.pulse()
                moved = _to_device(batch, session.accelerator.device)
                samples = sample_count(moved)
                with session.accelerator.autocast():
                    output, target = self.forward(model, moved)
                    found = {"loss": self.loss(output, target)}
                if metrics is None:
                    metrics = default_metrics(output, target)
                found |= {name: metric(output, target) for name, metric in metrics.items()}
                for name, value in found.items():
                    totals[name] += float(value) * samples
                    seen[name] += samples
        model.train(was_training)
        sums = self._sum([*totals.values(), *seen.values()])
        count = len(names)
        if not sums[count]:
            raise InvalidInput("the validation loader gave no batch", remedy="give rows, or leave val_loader out")
        pairs = zip(names, sums[:count], sums[count:], strict=True)
        return {name: total / samples for name, total, samples in pairs if samples}

    def _sum(self, values: list[float]) -> list[float]:
        import torch

        accelerator = self.session.accelerator
        if self.session.world == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
        return list(accelerator.reduce(total, reduction="sum").tolist())

    # -- checkpoints -----------------------------------------------------------------------------------------

    def _save(self, metric: float | None) -> None:
        self._flush()
        session, cursor = self.session, self.cursor
        spikes = [] if self.spikes is None else self.spikes.state()
        sums = self._per_rank([cursor.loss_sum, float(cursor.samples), *spikes])
        position = {
            "epoch": cursor.epoch,
            "batch": cursor.batch,
            "step": cursor.step,
            "ranks": [
                {"loss_sum": loss_sum, "samples": int(samples), "spikes": recent} for loss_sum, samples, *recent in sums
            ],
        }
        if self.patience is not None:
            position["patience"] = self.patience.state()
        session.checkpointer.save(
            self.objects,
            step=cursor.step,
            epoch=cursor.epoch,
            cursor=position,
            metric=metric,
            lower_is_better=not self.higher_is_better,
            after=self.on_checkpoint,
        )
        session.saved()

    def _per_rank(self, values: list[float]) -> list[list[float]]:
        import torch

        if self.session.world == 1:
            return [values]
        accelerator = self.session.accelerator
        own = torch.tensor([values], dtype=torch.float64, device=accelerator.device)
        return list(accelerator.gather(own).tolist())

    def _total_steps(self) -> int | None:
        length = self.loader.length(self.cursor.epoch)
        return None if length is None else math.ceil(length / self.session.spec.gradient_accumulation) * self.epochs


def _check_fit(
    model: Any,
    optimizer: Any,
    scheduler: Any,
    epochs: int,
    loss: Any,
    metrics: Any,
    scheduler_step: str,
) -> bool:
    """Refuse arguments that cannot work; return whether the scheduler steps after each update."""
    import torch

    if not isinstance(model, torch.nn.Module):
        raise InvalidInput("fit() trains a torch module", value=type(model).__name__)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InvalidInput(
            "fit() needs an optimizer",
            value=type(optimizer).__name__,
            remedy="such as torch.optim.Adam(model.parameters())",
        )
    own = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
        raise InvalidInput(
            "the optimizer holds no parameter of the model",
            remedy="make it from this model: torch.optim.Adam(model.parameters())",
        )
    if not callable(loss):
        raise InvalidInput("loss must be callable, such as torch.nn.CrossEntropyLoss()", value=loss)
    if metrics is not None and not all(callable(metric) for metric in metrics.values()):
        raise InvalidInput("metrics map names to functions of (output, target)", value=metrics)
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise InvalidInput("epochs must be a whole number from 1", value=epochs)
    if scheduler_step not in {"auto", "step", "epoch"}:
        raise InvalidInput("scheduler_step must be auto, step or epoch", value=scheduler_step)
    if scheduler_step == "auto":
        return type(scheduler).__name__ in _PER_STEP_SCHEDULERS
    return scheduler_step == "step"


def _gradient_norm(model: Any) -> Any:
    import torch

    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else None


def _to_device(batch: Any, device: Any) -> Any:
    if device.type == "cpu":
        return batch
    from accelerate.utils import send_to_device

    return send_to_device(batch, device, non_blocking=True)
