"""Whatever people and the world do in whatever order: one stable, exact weights, and an end."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlcycle_nb.context import open_context
from mlcycle_nb.deployment.records import WHOLE, Revision, Rollout, share
from mlcycle_nb.deployment.rollout import step_split, whole
from mlcycle_nb.errors import Conflict, InvalidInput, NotFound, Refused
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.settings import load_settings
from mlcycle_nb.store.audit import verify
from mlcycle_nb.testing import FakeClock

from .conftest import Manager, ScriptedGates, ScriptedRegistry, World

REFUSALS = (Conflict, Refused, NotFound, InvalidInput)
STRATEGIES = ("canary", "blue-green", "rolling", "all-at-once", "shadow")


@dataclass(frozen=True)
class Step:
    verb: str
    version: int = 1
    strategy: str = "canary"
    supersede: bool = False


steps = st.one_of(
    st.builds(Step, st.just("deploy"), st.integers(1, 4), st.sampled_from(STRATEGIES), st.booleans()),
    st.builds(Step, st.sampled_from(["promote", "abort", "pause", "resume", "rollback"])),
    st.builds(Step, st.sampled_from(["good", "bad", "undecided", "silent"])),
    st.builds(Step, st.sampled_from(["break", "mend"]), st.integers(1, 4)),
    st.builds(Step, st.sampled_from(["rollouts", "replicas", "gateway", "turn", "later", "new leader", "set back"])),
)


def check(world: World) -> None:
    """What must hold at every moment."""
    store = world.context.store
    running = [r for r in store.find(Rollout) if not r.ended and r.phase != "queued"]
    assert len(running) <= 1
    try:
        service = world.service()
    except NotFound:
        return
    weights = {one.version: one.weight for one in service.split}
    assert sum(weights.values()) in (0, WHOLE)
    assert service.stable is None or service.stables[-1] == service.stable
    assert len(set(service.stables)) == len(service.stables)
    for version in [v for v, w in weights.items() if w] + [one.version for one in service.mirror]:
        assert store.get(Revision, f"production/digits/{version}").phase == "ready", "requests go to nobody"
    if running:
        (rollout,) = running
        allowed = {step_split(rollout, step) for step in range(len(rollout.policy.steps))}
        allowed |= {step_split(rollout, len(rollout.policy.steps) - 1), ()}
        back = {service.split} if share(service.split, rollout.base) == WHOLE else set()
        assert service.split in allowed | back, "a weight outside the plan"
        if rollout.strategy == "shadow":
            assert service.split == whole(service.stable), "a shadow moved requests"
            assert {one.version for one in service.mirror} <= {rollout.target}, "copies of a shadow go elsewhere"
    elif service.stable is not None:
        assert weights == {service.stable: WHOLE}
        assert service.mirror == (), "copies without a rollout"
    for version, weight in world.served.get("digits", {}).items():
        assert not weight or world.alive.get(f"production/digits/{version}"), "the gateway sends requests to nobody"


def act(world: World, step: Step) -> None:
    deployment = world.deployment
    if step.verb == "deploy":
        limit = {"duration": "20s"} if step.strategy == "shadow" else {"deadline": "40s"}
        world.deploy(step.version, strategy=step.strategy, supersede=step.supersede, warm="5s", **limit)
    elif step.verb == "rollback":
        deployment.rollback_deployment("digits")
    elif step.verb in ("promote", "abort", "pause", "resume"):
        getattr(deployment, step.verb)()
    elif step.verb in ("good", "bad", "undecided"):
        outcomes = {"good": Outcome.PASSED, "bad": Outcome.FAILED, "undecided": Outcome.INCONCLUSIVE}
        world.rollouts.verdict, world.rollouts.requests = outcomes[step.verb], 1000
    elif step.verb == "silent":
        world.rollouts.requests = 0
    elif step.verb == "break":
        world.broken = world.broken | {step.version}
    elif step.verb == "mend":
        world.broken = world.broken - {step.version}
    elif step.verb == "new leader":
        world.__post_init__()
    elif step.verb == "set back":
        world.context.clock.set_back(timedelta(hours=1))
    elif step.verb == "later":
        world.turn(seconds=30)
    else:
        turns = {"rollouts": world.rollout_turn, "replicas": world.revision_turn, "gateway": world.gateway_turn}
        turns.get(step.verb, world.turn)()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(st.lists(steps, min_size=5, max_size=40))
def test_any_order_of_events(world_patches, plan: list[Step]) -> None:
    """Invariants hold after each event; left alone, every rollout ends."""
    with tempfile.TemporaryDirectory() as folder:
        context = open_context(Path(folder) / "w", load_settings(environ={}), actor="t@here", clock=FakeClock())
        gates = ScriptedGates()
        world = World(context, Manager(context, ScriptedRegistry(), gates), gates)
        try:
            for step in plan:
                try:
                    act(world, step)
                except REFUSALS:
                    pass  # refused in words; nothing may have changed by it
                check(world)
            world.broken, world.rollouts.verdict, world.rollouts.requests = set(), Outcome.PASSED, 1000
            for _ in range(150):
                if not context.store.find(Rollout, active=True):
                    break
                for rollout in context.store.find(Rollout, phase="paused"):
                    world.deployment.resume(rollout.id)
                world.turn()
                check(world)
            assert context.store.find(Rollout, active=True) == []
            assert verify(context.store).intact
        finally:
            context.store.close()
