"""A deployment service over a real store, with a simulated gateway and simulated replicas."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.judgement import Judgement, MetricVerdict
from mlcycle_nb.deployment.plan import make_plan
from mlcycle_nb.deployment.records import Gateway, Revision, Rollout, Service
from mlcycle_nb.deployment.revision_controller import (
    Move,
    ReplicaSeen,
    RevisionController,
    RevisionObservation,
    Start,
    Stop,
)
from mlcycle_nb.deployment.revision_controller import next_action as revision_action
from mlcycle_nb.deployment.rollout_controller import RolloutController
from mlcycle_nb.deployment.service import ModelDeploymentManager
from mlcycle_nb.errors import NotFound
from mlcycle_nb.outcomes import Outcome

DIGEST = "sha256:" + "a" * 64


@dataclass(frozen=True)
class Version:
    name: str
    version: int
    package_digest: str = DIGEST


class ScriptedRegistry:
    """Knows versions 1 to 9 of `digits`."""

    def get_version(self, reference: str) -> Version:
        name, _, version = reference.partition("/")
        if name != "digits" or not version or int(version) > 9:
            raise NotFound("there is no such version", value=reference, remedy="known: digits/1")
        return Version(name, int(version))


@dataclass
class ScriptedGates:
    """Lets everything pass but the versions in `refused`."""

    refused: dict[int, str] = field(default_factory=dict)

    def is_valid_for(self, reference: str, environment: str) -> tuple[bool, str]:
        why = self.refused.get(int(reference.partition("/")[2]), "")
        return not why, why


class Manager(ModelDeploymentManager):
    """The service, with packages that are there unless the test says otherwise."""

    missing: tuple[str, ...] = ()

    def _check_package(self, digest: str, reference: str) -> None:
        if reference in self.missing:
            raise NotFound(f"the package of {reference} is gone", value=digest)


class Rollouts(RolloutController):
    """The real controller, with an analysis that says what the test wants."""

    verdict = Outcome.PASSED
    requests = 1_000

    def _judgement(self, record: Rollout) -> Judgement:
        metric = MetricVerdict(name="error rate", outcome=self.verdict, reason="as scripted", requests=self.requests)
        return Judgement(metrics=(metric,), step_requests=self.requests)


@dataclass
class World:
    """Gateway and replicas as they would be, one small step at a time."""

    context: Context
    deployment: Manager
    gates: ScriptedGates
    alive: dict[str, set[int]] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)  # versions whose replicas never become ready
    sockets: set[str] = field(default_factory=set)
    served: dict[str, dict[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rollouts = Rollouts(self.context)
        self.revisions = RevisionController(self.context)

    def rollout_turn(self) -> None:
        now = self.context.clock.now()
        for record in self.context.store.find(Rollout, active=True, newest_first=False):
            seen = self.rollouts.observe(record)
            action = self.rollouts.next_action(record, seen, now)
            if action is not None:
                self.rollouts.act(action, record, seen)

    def revision_turn(self) -> None:
        for record in self.context.store.find(Revision, active=True):
            alive = self.alive.setdefault(record.id, set())
            fine = record.model_version not in self.broken
            seen = RevisionObservation(
                replicas=tuple(
                    ReplicaSeen(
                        index=i, alive=i in alive, ready=i in alive and fine, routed=f"{record.id}:{i}" in self.sockets
                    )
                    for i in range(max([record.replicas, *(i + 1 for i in alive)]))
                ),
                in_use=self.revisions._in_use(record),
            )
            action = revision_action(record, seen, self.context.clock.now())
            if isinstance(action, Start):
                alive.add(action.index)
            elif isinstance(action, Stop):
                alive.discard(action.index)
            elif isinstance(action, Move):
                self.revisions._move(action, record)
            ready = len(alive & set(range(record.replicas))) if fine else 0
            problem = "" if fine else f"replica 0 of digits/{record.model_version}: no"
            self.context.store.observe(Revision, record.id, attempt=record.attempt, ready=ready, problem=problem)

    def gateway_turn(self) -> None:
        store = self.context.store
        services, revisions = store.find(Service), store.find(Revision, phase="ready")
        plan = make_plan(Path("/h"), services, revisions, [], {})  # refuses a route to a version without replicas
        self.sockets = {f"{r.id}:{i}" for r in revisions for i in range(r.replicas)}
        self.served = {s.model: dict(s.split) for s in plan.services}
        store.observe(
            Gateway,
            "production",
            alive=True,
            url="http://127.0.0.1:1",
            generations={s.model: s.generation for s in services},
            weights={model: {str(v): w for v, w in split.items()} for model, split in self.served.items()},
            reachable={
                f"{r.model}/{r.model_version}": len(self.alive.get(r.id, set()) & set(range(r.replicas)))
                for r in revisions
            },
        )

    def turn(self, seconds: float = 1.0) -> None:
        self.rollout_turn()
        self.revision_turn()
        self.gateway_turn()
        self.context.clock.advance(timedelta(seconds=seconds))

    def settle(self, turns: int = 80) -> None:
        for _ in range(turns):
            self.turn()

    def deploy(self, version: int, **options: object) -> Rollout:
        usual = {"duration": "6s"} if options.get("strategy") == "shadow" else {"interval": "2s"}
        options = {**usual, "environment": "production", **options}
        return self.deployment.deploy_model(f"digits/{version}", **options).record

    def service(self) -> Service:
        return self.context.store.get(Service, "production/digits")


@pytest.fixture
def world_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """No supervisor is started, and no registry is told an alias."""
    monkeypatch.setattr(Context, "ensure_supervisor", lambda self: None)
    monkeypatch.setattr(RolloutController, "_set_alias", _note_alias)


@pytest.fixture
def world(context: Context, world_patches: None) -> World:
    gates = ScriptedGates()
    return World(context, Manager(context, ScriptedRegistry(), gates), gates)


def _note_alias(self: RolloutController, record: Rollout) -> None:
    from dataclasses import replace

    with self._context.store.transaction(actor="supervisor") as transaction:
        transaction.update(replace(record, alias_due=False), event="rollout.alias_set")
