"""Training: a notebook cell runs in worker processes outside the kernel, and survives whatever dies.

Scripts and modules that run in a job import what a cell finds defined: ``from mlcycle_nb.training import fit, log``.
"""

from __future__ import annotations

from mlcycle_nb.training.ambient import (
    accelerator,
    batches,
    checkpoint,
    current,
    epochs,
    fit,
    log,
    params,
    save_model,
)
from mlcycle_nb.training.early_stopping import EarlyStopping

__all__ = [
    "EarlyStopping",
    "accelerator",
    "batches",
    "checkpoint",
    "current",
    "epochs",
    "fit",
    "log",
    "params",
    "save_model",
]
