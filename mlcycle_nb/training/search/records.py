"""Searches and their trials: what is stored of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Literal

from mlcycle_nb.development.records import run_subject
from mlcycle_nb.store import Record
from mlcycle_nb.training.records import Failure
from mlcycle_nb.training.search.space import SpaceEntry
from mlcycle_nb.training.submission import Param
from mlcycle_nb.training.trouble import DEFAULT_POLICIES

SearchPhase = Literal["running", "finished", "failed", "stopped"]
TrialPhase = Literal["waiting", "running", "pruning", "stopping", "complete", "pruned", "failed", "stopped"]
OPEN: tuple[str, ...] = ("waiting", "running", "pruning", "stopping")
MAX_REPORTS = 1000
"""Reports of a trial that are judged and kept; later ones only give its value."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TrainingSearch(Record):
    """A search over the hyperparameters of one training cell.

    Attributes
    ----------
    key : str
        Digest of cell, data, space and options, apart from how many trials there are and how many run at once.
    asked, ended : int
        Trials that were drawn, and those of them that have a result, over all restarts.
    failures_in_a_row : int
        Of the trials that ended last.
    reported : bool
        Whether any trial has reported the metric.
    """

    KIND: ClassVar[str] = "search"

    model: str
    key: str
    cell_digest: str
    data_digest: str
    space: tuple[SpaceEntry, ...]
    sampler: str
    pruner: str
    metric: str
    direction: Literal["minimize", "maximize"]
    trials: int
    concurrent: int
    max_failures: int
    seed: int
    processes: int
    epochs: int
    params: dict[str, Param]
    max_restarts: int = 5
    max_rollbacks: int = 3
    on_trouble: dict[str, str] = field(default_factory=lambda: dict(DEFAULT_POLICIES))
    grace_seconds: float = 30.0
    stall_seconds: float = 1200.0
    resume: str = "auto"
    register: bool = False
    experiment: str = ""
    run_id: str | None = None
    run_open: bool = False
    asked: int = 0
    ended: int = 0
    failures_in_a_row: int = 0
    reported: bool = False
    best: int | None = None
    best_value: float | None = None
    best_job: str = ""
    stop_requested_at: datetime | None = None
    ended_at: datetime | None = None
    failure: Failure | None = None
    registered: str | None = None
    registration_error: str = ""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model

    @property
    def active(self) -> bool:
        """Whether the supervisor has to look at it."""
        return self.phase == "running"

    @property
    def lock_key(self) -> str | None:
        """A cell with the same data, space and seed is searched once."""
        return f"{self.model}:{self.key}"

    @property
    def refers_to(self) -> tuple[str, ...]:
        """The run, while it is written to; its trials' runs are nested in it, and refer to it themselves."""
        return (run_subject(self.run_id),) if self.active and self.run_id else ()

    def better(self, value: float) -> bool:
        """Return whether `value` is better than the best so far; an equal one is not."""
        if self.best_value is None:
            return True
        return value > self.best_value if self.direction == "maximize" else value < self.best_value

    def __repr__(self) -> str:
        best = "" if self.best is None else f", best {self.metric} {self.best_value:.4g} in trial {self.best}"
        version = f", registered as {self.registered}" if self.registered else ""
        failed = f" - {self.failure}" if self.failure else ""
        return f"search {self.id}: {self.phase}, {self.ended} of {self.trials} trials{best}{version}{failed}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SearchTrial(Record):
    """One set of hyperparameters, and what came of training with it.

    Attributes
    ----------
    number : int
        Counted from 0 within the search.
    job : str
        The training job, once there is one.
    tries : int
        Jobs that were made for it; more than one when a job died beyond its own recovery.
    reports : tuple of float
        The metric as it was reported, up to the report at which the trial was pruned; None where it was not finite.
    """

    KIND: ClassVar[str] = "trial"

    search: str
    number: int
    params: dict[str, Param]
    job: str = ""
    tries: int = 0
    reports: tuple[float | None, ...] = ()
    value: float | None = None
    failure: Failure | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def name(self) -> str:
        """The search."""
        return self.search

    def __repr__(self) -> str:
        given = " ".join(f"{name}={shown(value)}" for name, value in self.params.items())
        value = "" if self.value is None else f" {self.value:.4g}"
        return f"trial {self.number}: {self.phase}{value} ({given})" + (f" - {self.failure}" if self.failure else "")


def trial_id(search: str, number: int) -> str:
    """Return the id of a trial."""
    return f"{search}-t{number}"


def kept(reports: Sequence[float]) -> tuple[float | None, ...]:
    """Return reports as they are stored: JSON has no NaN."""
    return tuple(value if math.isfinite(value) else None for value in reports[:MAX_REPORTS])


def shown(value: Param) -> str:
    """Return a hyperparameter's value as text, fractions with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
