"""Training jobs: what is stored of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Literal

from mlcycle_nb.development.records import run_subject
from mlcycle_nb.store import Record
from mlcycle_nb.training.trouble import DEFAULT_POLICIES

Phase = Literal["queued", "running", "restarting", "finished", "failed", "stopped", "pruned"]
ENDED = frozenset({"finished", "failed", "stopped", "pruned"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a job or one of its attempts ended.

    Attributes
    ----------
    kind : str
        ``user``, ``disk`` and ``nodes`` (hosts that do not come together) end the job; ``crash`` and ``peer`` are
        recovered from; ``non_finite``, ``non_finite_gradient``, ``loss_spike``, ``stall`` and ``out_of_memory`` do
        what the job's ``on_trouble`` says of them.
    line : int, optional
        Line of the notebook cell, counted with its magic, or of the script `file`.
    traceback : str
        Of the rank that failed first, with the user's own lines.
    others : int
        How many other ranks reported an error of their own after it.
    """

    kind: str
    message: str
    rank: int | None = None
    line: int | None = None
    source: str = ""
    file: str = ""
    traceback: str = ""
    others: int = 0

    @property
    def place(self) -> str:
        """Where in the user's own code it happened; empty when it is not known."""
        if not self.line:
            return ""
        return f"{self.file}:{self.line}: {self.source}" if self.file else f"cell line {self.line}: {self.source}"

    @property
    def ranks(self) -> str:
        """Which rank failed first, and how many after it."""
        if self.rank is None:
            return ""
        plural = "s" if self.others > 1 else ""
        return f"rank {self.rank}" + (f", {self.others} other rank{plural} after it" if self.others else "")

    def __str__(self) -> str:
        ranks = f" ({self.ranks})" if self.ranks else ""
        place = f" - {self.place}" if self.place else ""
        return f"{self.message}{ranks}{place}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """One recovery."""

    attempt: int  # that ended
    at: datetime
    why: str
    from_step: int | None  # the newest checkpoint, or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """One return to a checkpoint before trouble, and the batches that are passed over since."""

    attempt: int  # that ended
    at: datetime
    kind: str
    why: str
    from_step: int | None
    epoch: int  # from 0, as are the batches
    first_batch: int
    last_batch: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TrainingJob(Record):
    """A training cell that runs, or ran, in worker processes."""

    KIND: ClassVar[str] = "training"

    model: str
    key: str  # digest of the cell, its parameters and its data
    cell_digest: str
    data_digest: str
    processes: int  # on all hosts together
    epochs: int
    params: dict[str, str | int | float | bool | None]
    seed: int
    experiment: str = ""
    run_id: str | None = None
    register: bool = False
    attempt: int = 0
    crashes_in_a_row: int = 0
    max_restarts: int = 5
    max_rollbacks: int = 3
    rollbacks: tuple[Rollback, ...] = ()
    on_trouble: dict[str, str] = field(default_factory=lambda: dict(DEFAULT_POLICIES))
    grace_seconds: float = 30.0  # from being told to stop to the end
    stall_seconds: float = 1200.0  # without a step
    resume: str = "auto"  # or never: what was ended from outside stays ended
    checkpoint_step: int | None = None  # newest one that a recovery began from
    restarts: tuple[Restart, ...] = ()
    nodes: int = 1  # hosts
    rendezvous: str = ""
    next_attempt_at: datetime | None = None
    stop_requested_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    failure: Failure | None = None
    ending: str = ""  # how it came to be stopped, and at which checkpoint
    steps: int = 0
    metrics: dict[str, float | str] = field(default_factory=dict)
    ended_early: str = ""  # why, when early stopping ended it before its last epoch
    handed_over: bool = False
    registered: str | None = None  # model reference, once packaged
    registration_error: str = ""
    environment: str = ""  # isolated one that it runs in; empty: the kernel's own
    not_reproducible: tuple[str, ...] = ()  # why the notebook would not give it again
    reproduces: str = ""  # the run that it runs again
    script: str = ""  # path or module as given; empty: a cell
    script_args: tuple[str, ...] = ()
    search: str = ""  # the search that it is a trial of; empty: none
    parent_run: str | None = None  # the run that its own is nested in

    @property
    def name(self) -> str:
        """The model's name, or the search's: a trial is no job that one means by the model's name."""
        return self.search or self.model

    @property
    def active(self) -> bool:
        """Whether the supervisor has to look at it."""
        return self.phase not in ENDED

    def __repr__(self) -> str:
        figures = " ".join(f"{name}={value:.4g}" for name, value in self.metrics.items() if isinstance(value, float))
        ended = f", {self.steps} steps {figures}".rstrip() if self.phase == "finished" else ""
        if self.ended_early and ended:
            ended += f" (ended early: {self.ended_early})"
        if self.phase == "stopped" and self.ending:
            ended = f" - {self.ending}"
        version = f", registered as {self.registered}" if self.registered else ""
        return f"training {self.id}: {self.phase}{ended}{version}" + (f" - {self.failure}" if self.failure else "")

    @property
    def lock_key(self) -> str | None:
        """The same cell with the same data runs once at a time."""
        return f"{self.model}:{self.key}" if self.active else None

    @property
    def refers_to(self) -> tuple[str, ...]:
        """The run, while it is written to; afterwards the job tells where things came from, and needs none of them."""
        run = (run_subject(self.run_id),) if self.active and self.run_id else ()
        return (*run, f"environment:{self.environment}") if self.active and self.environment else run
