"""The rollout's state machine: record, observation and time -> the next action. Nothing here touches the world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from mlcycle_nb.deployment import shadow
from mlcycle_nb.deployment.judgement import Judgement
from mlcycle_nb.deployment.records import (
    WHOLE,
    DeploymentStrategy,
    Revision,
    Rollout,
    Service,
    Split,
    Weight,
)
from mlcycle_nb.outcomes import Outcome

BACK_PATIENCE_SECONDS = 30.0
"""How long a way back waits for all replicas of stable; then one has to do."""
CLOCK_SLACK = timedelta(seconds=5)
"""A time that lies further ahead than this was taken before somebody set the clock back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One revision as the world has it."""

    revision: Revision | None = None
    ready: int = 0  # replicas that answered their golden batch
    reachable: int = 0  # replicas that the gateway sends requests to
    problem: str = ""  # why it cannot become ready

    def serves(self, replicas: int) -> bool:
        """Whether this many replicas are ready, warm and known to the gateway."""
        return self.wanted >= replicas and self.ready >= replicas and self.reachable >= replicas

    @property
    def wanted(self) -> int:
        """Replicas that are asked for."""
        if self.revision is None or self.revision.phase in ("draining", "stopped"):
            return 0
        return self.revision.replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutObservation:
    """The world as far as one rollout is concerned."""

    service: Service
    target: Seen = field(default_factory=Seen)
    base: Seen = field(default_factory=Seen)
    settled: bool = False  # the gateway answers by the service's present routes
    judgement: Judgement = field(default_factory=Judgement)
    predecessor_ended: bool = True


@dataclass(frozen=True, slots=True)
class Take:
    """A queued rollout begins."""


@dataclass(frozen=True, slots=True)
class Size:
    """A revision gets this many replicas; one that was stopped is started."""

    version: int
    replicas: int


@dataclass(frozen=True, slots=True)
class Route:
    """The service gets these routes."""

    split: Split
    mirror: Split
    phase: Literal["progressing", "promoting", "aborting", "concluding"]
    step: int
    text: str


@dataclass(frozen=True, slots=True)
class Settle:
    """The gateway answers by the present step: its time begins."""


@dataclass(frozen=True, slots=True)
class Abort:
    """The way back begins."""

    reason: str
    ends_as: Literal["aborted", "rolled_back"] = "rolled_back"


@dataclass(frozen=True, slots=True)
class Conclude:
    """A shadow has its verdict: its copies end."""

    verdict: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Rewind:
    """The clock was set back: the time of phase and step begins anew, or it would wait for the difference."""


@dataclass(frozen=True, slots=True)
class Complete:
    """The target becomes stable."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The way back is done."""


@dataclass(frozen=True, slots=True)
class SetAlias:
    """The registry's alias of what serves production follows."""


Action = Take | Size | Route | Settle | Abort | Conclude | Rewind | Complete | Finish | SetAlias


def next_action(record: Rollout, seen: RolloutObservation, now: datetime) -> Action | None:
    """Return what the rollout needs next, or None when it has to wait.

    Pure: the same arguments give the same action, so every transition is tested without a process.
    """
    if record.phase == "queued":
        return Take() if seen.predecessor_ended else None
    if not record.ended and max(record.phase_since, record.in_force_since or record.phase_since) > now + CLOCK_SLACK:
        return Rewind()
    if record.phase == "preparing":
        return _prepare(record, seen, now)
    if record.phase in ("progressing", "paused"):
        trouble = seen.target.problem or seen.judgement.failure
        if trouble:
            told = record.strategy is DeploymentStrategy.SHADOW and not seen.target.problem
            return Conclude(Outcome.FAILED, trouble) if told else Abort(trouble)
        return None if record.phase == "paused" else _progress(record, seen, now)
    if record.phase == "promoting":
        return _promote(record, seen)
    if record.phase in ("aborting", "concluding"):
        return _go_back(record, seen, now)
    return SetAlias() if record.alias_due else None


def whole(version: int) -> Split:
    """Return the split in which one version has everything."""
    return (Weight(version, WHOLE),)


def step_split(record: Rollout, step: int) -> Split:
    """Return the split of a step: the target has its weight, stable the rest."""
    weight = record.policy.steps[step]
    if record.strategy is DeploymentStrategy.SHADOW and record.base is not None:
        return whole(record.base)  # its answers are never served
    if record.base is None or weight == WHOLE:
        return whole(record.target)
    return (Weight(record.base, WHOLE - weight), Weight(record.target, weight))


def step_mirror(record: Rollout, step: int) -> Split:
    """Return who gets copies, so that each copied request is answered by both versions."""
    share = record.policy.mirror
    if record.base is None or share == 0 or record.strategy is DeploymentStrategy.ROLLING:
        return ()
    if record.strategy is DeploymentStrategy.SHADOW:
        return (Weight(record.target, share),)  # stable answers every request anyway
    if record.policy.steps[step] == WHOLE:
        return (Weight(record.base, share),)
    return (Weight(record.base, share), Weight(record.target, share))


def first_size(record: Rollout) -> int:
    """Return the replicas that the target needs before it gets any request."""
    return 1 if _replaces_one_by_one(record) else record.replicas


def _replaces_one_by_one(record: Rollout) -> bool:
    return record.strategy is DeploymentStrategy.ROLLING and record.base is not None


def _prepare(record: Rollout, seen: RolloutObservation, now: datetime) -> Action | None:
    wanted = first_size(record)
    if seen.target.problem:
        return Abort(seen.target.problem)
    if record.strategy is DeploymentStrategy.SHADOW and record.base in (None, record.target):
        return Abort(shadow.NOTHING_TO_COMPARE)
    if seen.target.wanted < wanted:
        return Size(record.target, wanted)
    if not seen.target.serves(wanted):
        if now - record.phase_since > timedelta(seconds=record.policy.start_seconds):
            return Abort(f"{seen.target.ready} of {wanted} replicas were ready after {record.policy.start_seconds:g} s")
        return None
    stepwise = record.strategy in (
        DeploymentStrategy.CANARY,
        DeploymentStrategy.ROLLING,
        DeploymentStrategy.BLUE_GREEN,
        DeploymentStrategy.SHADOW,
    )
    in_one_step = (DeploymentStrategy.BLUE_GREEN, DeploymentStrategy.SHADOW)
    at_once = record.strategy not in in_one_step and record.policy.steps[0] == WHOLE
    if record.base is None or not stepwise or at_once:
        return Route(whole(record.target), (), "promoting", record.step, f"all requests go to {record.reference}")
    return _to_step(record, 0)


def _to_step(record: Rollout, step: int) -> Route:
    weight = record.policy.steps[step]
    if record.strategy is DeploymentStrategy.SHADOW:
        copied = f"{record.policy.mirror / 100:g}% of the requests are copied to {record.reference}, which serves none"
        return Route(step_split(record, step), step_mirror(record, step), "progressing", step, copied)
    text = f"step {step + 1}/{len(record.policy.steps)}: {weight / 100:g}% to {record.reference}"
    return Route(step_split(record, step), step_mirror(record, step), "progressing", step, text)


def _progress(record: Rollout, seen: RolloutObservation, now: datetime) -> Action | None:
    if (seen.service.split, seen.service.mirror) != (step_split(record, record.step), step_mirror(record, record.step)):
        return _to_step(record, record.step)
    if not seen.settled:
        return None
    if record.in_force_since is None:
        return Settle()
    held = (now - record.in_force_since).total_seconds()
    if record.strategy is DeploymentStrategy.SHADOW:
        ended = shadow.conclusion(record, seen.judgement, held)
        return None if ended is None else Conclude(*ended)
    if _replaces_one_by_one(record):
        return _replace_next(record, seen, held)
    hold = holding(record, seen.judgement, held)
    if not hold:
        return _onwards(record)
    if held > record.policy.deadline_seconds:
        return Abort(f"still undecided at the deadline: {hold}")
    return None


def holding(record: Rollout, judgement: Judgement, held_seconds: float) -> str:
    """Return why the present step is kept, or the empty text when the next may begin."""
    policy = record.policy
    if judgement.step_requests < policy.min_requests:
        return f"waiting for requests: {judgement.step_requests}/{policy.min_requests} at this step"
    if held_seconds < policy.interval_seconds:
        return f"{policy.interval_seconds - held_seconds:.0f} s of the interval are left"
    if record.strategy is DeploymentStrategy.BLUE_GREEN:
        return ""  # all requests are there already: nothing grows, and a failure goes back at once
    return judgement.holds(policy.steps[min(record.step + 1, len(policy.steps) - 1)])


def _onwards(record: Rollout) -> Route:
    following = record.step + 1
    if following < len(record.policy.steps) and record.policy.steps[following] < WHOLE:
        return _to_step(record, following)
    return Route(whole(record.target), (), "promoting", record.step, f"all requests go to {record.reference}")


def _replace_next(record: Rollout, seen: RolloutObservation, held: float) -> Action | None:
    done = record.step + 1  # replicas of the target that have their share
    rest = max(record.base_replicas - done, 1)
    if done < len(record.policy.steps) and seen.base.wanted > rest:
        assert record.base is not None  # rolling replaces something
        return Size(record.base, rest)
    if held < record.policy.interval_seconds:
        return None
    if done == len(record.policy.steps):
        return _onwards(record)
    if seen.target.wanted < done + 1:
        return Size(record.target, done + 1)
    if seen.target.serves(done + 1):
        return _to_step(record, record.step + 1)
    if held > record.policy.interval_seconds + record.policy.start_seconds:
        return Abort(f"replica {done + 1} of {record.reference} did not become ready")
    return None


def _promote(record: Rollout, seen: RolloutObservation) -> Action | None:
    if seen.service.split != whole(record.target):
        if seen.target.problem:
            return Abort(seen.target.problem)
        if seen.target.wanted < record.replicas:
            return Size(record.target, record.replicas)
        if not seen.target.serves(record.replicas):
            return None  # never a larger share than its replicas can carry
    if seen.service.split != whole(record.target) or seen.service.mirror:
        return Route(whole(record.target), (), "promoting", record.step, f"all requests go to {record.reference}")
    if seen.target.wanted < record.replicas:
        return Size(record.target, record.replicas)
    return Complete() if seen.settled else None


def _go_back(record: Rollout, seen: RolloutObservation, now: datetime) -> Action | None:
    back = () if record.base is None else whole(record.base)
    if record.base is not None and seen.base.wanted < record.base_replicas:
        return Size(record.base, record.base_replicas)
    if seen.service.split != back or seen.service.mirror:
        waited = (now - record.phase_since).total_seconds()
        all_there = record.base is None or seen.base.serves(record.base_replicas)
        one_does = seen.base.serves(1) and waited > BACK_PATIENCE_SECONDS
        moves = seen.service.split != back  # a shadow's end moves no request, so it waits for nobody
        if moves and not all_there and not one_does and waited < record.policy.start_seconds:
            return None
        text = f"all requests go back to {record.model}/{record.base}" if back else "no version is left"
        if record.strategy is DeploymentStrategy.SHADOW:
            text = "no request is copied any more"
        phase: Literal["aborting", "concluding"] = "concluding" if record.phase == "concluding" else "aborting"
        return Route(back, (), phase, record.step, text)
    return Finish() if seen.settled else None


def weights_match(split: Split, in_force: Mapping[int, int]) -> bool:
    """Whether the gateway has these weights."""
    wanted = {one.version: one.weight for one in split if one.weight}
    return wanted == {version: weight for version, weight in in_force.items() if weight}


def is_settled(service: Service, gateway: Mapping[str, object]) -> bool:
    """Whether Envoy said that it routes by the service's present routes."""
    if not gateway.get("alive"):
        return False
    generations, weights = gateway.get("generations"), gateway.get("weights")
    if not isinstance(generations, dict) or not isinstance(weights, dict):
        return False
    if int(generations.get(service.model, -1)) < service.generation:
        return False
    in_force = {int(version): int(weight) for version, weight in weights.get(service.model, {}).items()}
    return weights_match(service.split, in_force)
