"""What deployment stores: gateways, services, revisions, rollouts and consumers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from mlcycle_nb.development.records import version_subject
from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.store import Record

WHOLE = 10_000
"""Weights are integers out of this many, so that sums are exact."""
HISTORY_LIMIT = 60
RETIREMENT_TAG = "mlcycle.retirement"
"""A tag of a version that is being retired, or is: the retirement's name; empty when it was cancelled."""


class DeploymentStrategy(StrEnum):
    """How a version takes over."""

    CANARY = "canary"
    BLUE_GREEN = "blue-green"
    ROLLING = "rolling"
    ALL_AT_ONCE = "all-at-once"
    SHADOW = "shadow"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Weight:
    """A version and its share, out of 10,000."""

    version: int
    weight: int


Split = tuple[Weight, ...]


def check_split(split: Split) -> Split:
    """Return `split` when it is empty or its weights sum to 10,000, each version once."""
    versions = [one.version for one in split]
    if len(set(versions)) != len(versions) or any(not 0 <= one.weight <= WHOLE for one in split):
        raise InvalidInput("a split names each version once, with a weight from 0 to 10,000", value=split)
    if split and sum(one.weight for one in split) != WHOLE:
        raise InvalidInput(f"weights are integers out of {WHOLE:,} that sum to {WHOLE:,}", value=split)
    return split


def share(split: Split, version: int | None) -> int:
    """Return a version's weight in a split, 0 when it has none."""
    return sum(one.weight for one in split if one.version == version)


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedRoute:
    """A version's own address: who answers there, with which headers, or that it is gone."""

    version: int
    split: Split = ()
    headers: dict[str, str] = field(default_factory=dict)
    gone: bool = False
    successor: str | None = None

    def __post_init__(self) -> None:
        check_split(self.split)
        if not self.gone and not self.split:
            raise InvalidInput("a pinned route needs a split, or is gone", value=self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway(Record):
    """One environment's gateway, by the environment's name."""

    KIND: ClassVar[str] = "gateway"

    @property
    def active(self) -> bool:
        return self.phase == "running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service(Record):
    """A model in an environment: which version is stable, and who gets how much of the requests."""

    KIND: ClassVar[str] = "service"

    environment: str
    model: str
    stable: int | None = None
    stables: tuple[int, ...] = ()  # every version that was ever stable, oldest first
    split: Split = ()
    mirror: Split = ()  # shares of copies; they need not sum to anything
    pinned: tuple[PinnedRoute, ...] = ()
    successor: str | None = None  # of a service that is gone
    generation: int = 0  # counts the changes of what is routed where

    def __post_init__(self) -> None:
        check_split(self.split)

    @property
    def name(self) -> str:
        return self.model

    @property
    def refers_to(self) -> tuple[str, ...]:
        """Every version that it routes to, or may be rolled back to; one that is gone answers without any."""
        if self.phase == "gone":
            return ()
        routes = (self.split, self.mirror, *(route.split for route in self.pinned if not route.gone))
        numbers = {*self.stables, *(one.version for route in routes for one in route)}
        numbers |= set() if self.stable is None else {self.stable}
        return tuple(version_subject(self.model, number) for number in sorted(numbers))

    @property
    def rollback_target(self) -> int | None:
        """The version that was stable before the present one."""
        return next((version for version in reversed(self.stables) if version != self.stable), None)

    def routed(self, **changes: object) -> Service:
        """Return the service with other routes, one generation further."""
        return replace(self, generation=self.generation + 1, **changes)  # type: ignore[arg-type]

    def uses(self, version: int) -> bool:
        """Whether any route, or the rank of stable, needs this version's replicas."""
        routes = (self.split, self.mirror, *(route.split for route in self.pinned if not route.gone))
        return version == self.stable or any(share(route, version) for route in routes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision(Record):
    """The replicas of one model version in one environment; phases starting, ready, draining, stopped."""

    KIND: ClassVar[str] = "revision"

    environment: str
    model: str
    model_version: int
    digest: str  # of the package
    replicas: int
    attempt: int = 1  # counts the starts on purpose, so that old failures are not held against a new one
    drain_at: datetime | None = None
    warm_seconds: float = 0.0
    runtime: str = ""  # isolated environment that the replicas run in; the workspace's own interpreter without

    @property
    def name(self) -> str:
        return self.model

    @property
    def active(self) -> bool:
        return self.phase != "stopped"

    @property
    def refers_to(self) -> tuple[str, ...]:
        return (version_subject(self.model, self.model_version),)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPolicy:
    """What a rollout asks for before each step; shares are of 1, weights of 10,000."""

    steps: tuple[int, ...] = (500, 2500, 5000, WHOLE)
    interval_seconds: float = 60.0
    min_requests: int = 100
    deadline_seconds: float = 3600.0
    mirror: int = 2000
    max_error_increase: float = 0.02
    max_slowdown: float = 0.10
    latency_slack_ms: float = 2.0
    max_disagreement: float = 0.10
    max_shift: float = 0.15
    max_accuracy_loss: float = 0.05
    optional: tuple[str, ...] = ("prediction-shift", "accuracy")  # may send it back, need not be proven good
    watched: tuple[str, ...] = ()  # shown, and decide nothing
    alpha: float = 0.05
    compared: int = 0  # a shadow ends after this many compared requests; 0 is only after its time
    start_seconds: float = 120.0
    warm_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class RolloutEvent:
    """A line of a rollout's history; with the target's planned weight where that changed."""

    time: datetime
    text: str
    weight: int | None = None


ENDED = ("completed", "compared", "aborted", "rolled_back")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout(Record):
    """One replacement of a service's stable version.

    Phases: queued, preparing, progressing, paused, promoting, completed; or aborting, then aborted (somebody
    asked for it) or rolled_back (the analysis or the replicas did). A shadow replaces nothing: it goes from progressing
    to concluding, then compared, with its verdict.
    """

    KIND: ClassVar[str] = "rollout"

    environment: str
    model: str
    target: int
    digest: str
    strategy: DeploymentStrategy
    replicas: int
    policy: RolloutPolicy
    actor: str
    pid: int
    base: int | None = None  # the stable version when it began
    base_replicas: int = 0
    step: int = 0
    phase_since: datetime
    in_force_since: datetime | None = None  # the present step's weights are answered by
    resume_to: str = ""
    ends_as: str = ""  # of an aborting one
    verdict: str = ""  # of a shadow that ran to its end: passed, failed or inconclusive
    reason: str = ""
    after: str = ""  # of a queued one: the rollout that has to end first
    alias_due: bool = False
    runtime: str = ""  # isolated environment of the target's replicas
    history: tuple[RolloutEvent, ...] = ()

    @property
    def name(self) -> str:
        return self.service_id

    @property
    def service_id(self) -> str:
        """The service that it changes."""
        return f"{self.environment}/{self.model}"

    @property
    def reference(self) -> str:
        """The target, such as ``digits/7``."""
        return f"{self.model}/{self.target}"

    @property
    def ended(self) -> bool:
        """Whether traffic will not be moved by it any more."""
        return self.phase in ENDED

    @property
    def active(self) -> bool:
        return not self.ended or self.alias_due

    @property
    def lock_key(self) -> str | None:
        return None if self.ended or self.phase == "queued" else self.service_id

    @property
    def refers_to(self) -> tuple[str, ...]:
        numbers = {self.target, self.base or self.target}
        return tuple(version_subject(self.model, number) for number in sorted(numbers))

    @property
    def place(self) -> str:
        """Where it stands: ``progressing, step 3/5``."""
        steps = len(self.policy.steps)
        if self.strategy is DeploymentStrategy.SHADOW:
            return f"{self.phase}, {self.verdict}" if self.verdict else self.phase
        where = "" if self.phase not in ("progressing", "paused") else f", step {min(self.step + 1, steps)}/{steps}"
        return f"{self.phase}{where}"

    def moved(
        self, now: datetime, phase: str, text: str = "", *, weight: int | None = None, **changes: object
    ) -> Rollout:
        """Return the rollout in another phase, with a line in its history."""
        since = now if phase != self.phase else self.phase_since
        told = self.told(now, text, weight)
        return replace(told, phase=phase, phase_since=since, **changes)  # type: ignore[arg-type]

    def told(self, now: datetime, text: str, weight: int | None = None) -> Rollout:
        """Return the rollout with one more line in its history."""
        if not text:
            return self
        return replace(self, history=(*self.history, RolloutEvent(now, text, weight))[-HISTORY_LIMIT:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer(Record):
    """Who may ask one environment; the key itself is kept in a private file only. Phases active, revoked."""

    KIND: ClassVar[str] = "consumer"

    environment: str
    key_digest: str  # first characters of the key's SHA-256, to tell keys apart

    @property
    def name(self) -> str:
        return self.id.partition("/")[2]


def service_id(environment: str, model: str) -> str:
    """Return the id of a service."""
    return f"{environment}/{model}"


def revision_id(environment: str, model: str, version: int) -> str:
    """Return the id of a revision."""
    return f"{environment}/{model}/{version}"
