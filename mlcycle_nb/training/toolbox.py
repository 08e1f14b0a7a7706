"""The names that a training cell finds defined."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.training.early_stopping import EarlyStopping
from mlcycle_nb.training.free_form import FreeForm
from mlcycle_nb.training.hand_over import guess_task, rows_of, store_model
from mlcycle_nb.training.loop import Fit, Forward

if TYPE_CHECKING:
    from mlcycle_nb.training.session import TrainingSession


class Toolbox:
    """What the cell calls, bound to one worker's session."""

    def __init__(self, session: TrainingSession) -> None:
        self._session = session
        self._free = FreeForm(session)
        if session.rehearsal is not None:
            session.rehearsal.save = self._free.save_for_rehearsal
        self._fitted = False
        self.handed_over = False
        self.accelerator = session.accelerator
        self.batches = self._free.batches
        self.checkpoint = self._free.checkpoint
        self.epochs = self._free.epochs
        self.log = session.log
        self.params = session.params

    @property
    def session(self) -> TrainingSession:
        """What the worker knows of its job."""
        return self._session

    def names(self) -> dict[str, Any]:
        """Return the names as the cell sees them."""
        return {
            "EarlyStopping": EarlyStopping,
            "accelerator": self.accelerator,
            "batches": self.batches,
            "checkpoint": self.checkpoint,
            "display": print,
            "epochs": self.epochs,
            "fit": self.fit,
            "log": self.log,
            "params": self.params,
            "save_model": self.save_model,
        }

    def fit(
        self,
        model: Any,
        optimizer: Any,
        train_loader: Any,
        val_loader: Any = None,
        *,
        loss: Callable[..., Any],
        scheduler: Any = None,
        epochs: int | None = None,
        metrics: Mapping[str, Callable[..., Any]] | None = None,
        forward: Forward | None = None,
        on_checkpoint: Callable[[Any], None] | None = None,
        best: str | None = None,
        higher_is_better: bool | None = None,
        clip_norm: float | None = None,
        scheduler_step: str = "auto",
        early_stopping: int | EarlyStopping | None = None,
        **description: Any,
    ) -> Any:
        """Train a torch module, with checkpoints, exact resuming and live metrics; return it trained.

        Parameters
        ----------
        model : torch.nn.Module
        optimizer : torch.optim.Optimizer
            Over the model's parameters.
        train_loader, val_loader : torch.utils.data.DataLoader
            Batches ``(inputs, target)``; each process gets its own share of them.
        loss : callable
            ``loss(output, target)``, a mean over the rows.
        scheduler : torch.optim.lr_scheduler.LRScheduler, optional
            Stepped after each epoch, or each update for ``OneCycleLR`` and ``CyclicLR``; `scheduler_step` overrides.
        epochs : int, optional
            ``--epochs`` by default.
        metrics : mapping, optional
            ``{"name": function(output, target)}``, on the validation rows; accuracy by default for classifiers.
        forward : callable, optional
            ``forward(model, batch) -> (output, target)`` for batches of another form.
        on_checkpoint : callable, optional
            Called in rank 0 with the receipt of each committed checkpoint.
        best : str, optional
            Metric that the best checkpoints are chosen by; ``val_loss`` by default.
        higher_is_better : bool, optional
            Told from the metric's name by default.
        clip_norm : float, optional
            Largest norm of the gradients.
        early_stopping : int or EarlyStopping, optional
            Epochs in a row without a better metric after which training ends, or
            ``EarlyStopping(patience=5, min_delta=0.001, metric="val_loss")``.
        **description
            For the package: ``reference``, ``reference_labels``, ``example``, ``feature_names``, ``class_names``
            and ``task``.
        """
        if self._fitted:
            raise InvalidInput(
                "fit() is called twice in one cell", remedy="train each model in a %%train cell of its own"
            )
        self._fitted = True
        _check_description(description)
        session = self._session
        session.driven = True
        run = Fit(
            session,
            model,
            optimizer,
            train_loader,
            val_loader,
            loss=loss,
            scheduler=scheduler,
            epochs=epochs,
            metrics=metrics,
            forward=forward,
            on_checkpoint=on_checkpoint,
            best=best,
            higher_is_better=higher_is_better,
            clip_norm=clip_norm,
            scheduler_step=scheduler_step,
            early_stopping=early_stopping,
        )
        run.run()
        if session.main:
            description = _completed(description, train_loader)
        self.save_model(model, **description)
        return model

    def save_model(self, model: Any, **description: Any) -> None:
        """Hand a trained model over for packaging: a torch module, a scikit-learn estimator or any picklable model.

        Parameters
        ----------
        model : object
            What was trained; one that went through ``accelerator.prepare`` is unwrapped.
        **description
            ``example`` or ``reference`` rows, ``reference_labels``, ``feature_names``, ``class_names``, ``task``.
        """
        _check_description(description)
        session = self._session
        if not session.main or session.rehearsal is not None:
            return
        bare = model
        if hasattr(model, "state_dict") and hasattr(model, "parameters"):
            bare = session.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
            if any(parameter.device.type != "cpu" for parameter in bare.parameters()):
                bare = copy.deepcopy(bare).to("cpu")
        document = store_model(session.folder.result, bare, **description)
        self.handed_over = True
        session.events.write("result", type=document["type"], task=document["task"])


def _completed(description: dict[str, Any], train_loader: Any) -> dict[str, Any]:
    """Return what is told of a model, with rows, labels and task of its training data where they are not."""
    told = {name: value for name, value in description.items() if value is not None}
    if "reference" in told and ("reference_labels" in told or "task" in told):
        return told
    rows, labels = rows_of(train_loader)
    if "reference" not in told:
        told["reference"] = rows
        told.setdefault("reference_labels", labels)
    elif labels is not None:  # they need not be those of the rows that were given
        told["task"] = guess_task(labels)
    return told


_DESCRIPTION = frozenset({"reference", "reference_labels", "example", "feature_names", "class_names", "task"})


def _check_description(description: Mapping[str, Any]) -> None:
    from mlcycle_nb.errors import did_you_mean

    for name in sorted(set(description) - _DESCRIPTION):
        raise InvalidInput(f"unknown option {name!r}", remedy=did_you_mean(name, _DESCRIPTION))
