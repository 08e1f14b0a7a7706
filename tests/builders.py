"""Records with everything that a test does not care about filled in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mlcycle_nb.training.records import TrainingJob

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def training_job(id: str = "digits-1", **changes: Any) -> TrainingJob:
    """Return a running job of one process; `changes` are its other fields."""
    model, _, _ = id.rpartition("-")
    usual: dict[str, Any] = {"phase": "running", "created_at": NOW, "model": model or id, "key": "k"}
    usual |= {"cell_digest": "c", "data_digest": "d", "processes": 1, "epochs": 1, "params": {}, "seed": 0}
    return TrainingJob(id=id, **{**usual, **changes})
