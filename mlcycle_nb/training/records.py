"""Training jobs: what is stored of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Literal

from mlcycle_nb.store import Record

Phase = Literal["queued", "running", "restarting", "finished", "failed", "stopped"]
ENDED = frozenset({"finished", "failed", "stopped"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a job or one of its attempts ended.

    Attributes
    ----------
    kind : str
        ``user``, ``non_finite``, ``out_of_memory`` and ``disk`` end the job; ``crash`` and ``peer`` are recovered from.
    line : int, optional
        Line of the notebook cell, counted with its magic.
    """

    kind: str
    message: str
    rank: int | None = None
    line: int | None = None
    source: str = ""

    def __str__(self) -> str:
        place = f" - cell line {self.line}: {self.source}" if self.line else ""
        rank = f" (rank {self.rank})" if self.rank is not None else ""
        return f"{self.message}{rank}{place}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """One recovery."""

    attempt: int  # that ended
    at: datetime
    why: str
    from_step: int | None  # the newest checkpoint, or None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TrainingJob(Record):
    """A training cell that runs, or ran, in worker processes."""

    KIND: ClassVar[str] = "training"

    model: str
    key: str  # digest of the cell, its parameters and its data
    cell_digest: str
    data_digest: str
    processes: int
    epochs: int
    params: dict[str, str | int | float | bool | None]
    seed: int
    experiment: str = ""
    run_id: str | None = None
    register: bool = False
    attempt: int = 0
    crashes_in_a_row: int = 0
    max_restarts: int = 5
    checkpoint_step: int | None = None  # newest one that a recovery began from
    restarts: tuple[Restart, ...] = ()
    next_attempt_at: datetime | None = None
    stop_requested_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    failure: Failure | None = None
    steps: int = 0
    metrics: dict[str, float | str] = field(default_factory=dict)
    ended_early: str = ""  # why, when early stopping ended it before its last epoch
    handed_over: bool = False
    registered: str | None = None  # model reference, once packaged
    registration_error: str = ""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model

    @property
    def active(self) -> bool:
        """Whether the supervisor has to look at it."""
        return self.phase not in ENDED

    def __repr__(self) -> str:
        figures = " ".join(f"{name}={value:.4g}" for name, value in self.metrics.items() if isinstance(value, float))
        ended = f", {self.steps} steps {figures}".rstrip() if self.phase == "finished" else ""
        if self.ended_early and ended:
            ended += f" (ended early: {self.ended_early})"
        version = f", registered as {self.registered}" if self.registered else ""
        return f"training {self.id}: {self.phase}{ended}{version}" + (f" - {self.failure}" if self.failure else "")

    @property
    def lock_key(self) -> str | None:
        """The same cell with the same data runs once at a time."""
        return f"{self.model}:{self.key}" if self.active else None
