"""Whatever was aliased and deployed in whatever order: the history answers like somebody who watched."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcycle_nb.context import Context, open_context
from mlcycle_nb.deployment.records import (
    DeploymentStrategy,
    Revision,
    Rollout,
    RolloutPolicy,
    Service,
    Weight,
    revision_id,
)
from mlcycle_nb.deployment.rollout import Complete, Route
from mlcycle_nb.deployment.rollout_controller import RolloutController, RolloutObservation
from mlcycle_nb.deployment.routes import undeploy
from mlcycle_nb.development.history import model_history
from mlcycle_nb.development.records import RegisteredVersion
from mlcycle_nb.development.service import ModelDevelopmentManager
from mlcycle_nb.development.tracking import Tracking
from mlcycle_nb.settings import load_settings
from mlcycle_nb.testing import FakeClock

VERSIONS = 4
ALIASES = ("champion", "challenger")
ENVIRONMENTS = ("staging", "production")

versions = st.integers(1, VERSIONS)
environments = st.sampled_from(ENVIRONMENTS)
weights = st.one_of(st.sampled_from([0, 10_000]), st.integers(0, 10_000))
steps = st.one_of(
    st.tuples(st.just("alias"), st.sampled_from(ALIASES), versions),
    st.tuples(st.just("unalias"), st.sampled_from(ALIASES)),
    st.tuples(st.just("route"), environments, versions, versions, weights),
    st.tuples(st.just("promote"), environments, versions),
    st.tuples(st.just("undeploy"), environments),
)


@pytest.fixture(scope="module")
def mlflow_with_versions() -> Iterator[Path]:
    """MLflow's database with the versions in it, to be copied: making it takes seconds."""
    home = Path(tempfile.mkdtemp(prefix="mlcycle-history-"))
    tracking = Tracking(home)
    for _ in range(VERSIONS):
        tracking.create_version("digits", "mlcycle://x", None, {"mlcycle.package": "sha256:" + "0" * 64})
    yield home / "mlflow.db"
    shutil.rmtree(home)


class World:
    """Does each step with the stages' own code, and writes down what it should come to."""

    def __init__(self, context: Context, clock: FakeClock) -> None:
        self.context, self.clock = context, clock
        self.development = ModelDevelopmentManager(context)
        self.controller = RolloutController(context)
        self.seen: dict[str, Any] = {"aliases": {}, "stable": {}, "weights": {}}
        self.development._registry.reconcile("digits")
        assert len(context.store.find(RegisteredVersion)) == VERSIONS

    def do(self, step: tuple[Any, ...]) -> None:
        getattr(self, step[0])(*step[1:])

    def alias(self, alias: str, version: int) -> None:
        self.development.set_alias("digits", alias, version)
        self.seen["aliases"][alias] = version

    def unalias(self, alias: str) -> None:
        self.development.remove_alias("digits", alias)
        self.seen["aliases"].pop(alias, None)

    def route(self, environment: str, one: int, other: int, weight: int) -> None:
        rollout = self._rollout(environment, one)
        split = (Weight(one, 10_000),) if one == other else (Weight(one, weight), Weight(other, 10_000 - weight))
        self.controller.act(Route(split, (), "progressing", 1, "a step"), rollout, RolloutObservation)
        self.seen["weights"][environment] = {w.version: w.weight / 10_000 for w in split if w.weight}

    def promote(self, environment: str, version: int) -> None:
        self.controller.act(Complete(), self._rollout(environment, version), RolloutObservation)
        self.seen["stable"][environment] = version

    def undeploy(self, environment: str) -> None:
        if self.context.store.maybe(Service, f"{environment}/digits") is not None:
            undeploy(self.context, f"{environment}/digits", successor=None, reason="")
        self.seen["stable"].pop(environment, None)
        self.seen["weights"].pop(environment, None)

    def _rollout(self, environment: str, version: int) -> Rollout:
        now = self.clock.now()
        with self.context.store.transaction("tester") as transaction:
            for old in transaction.find(Rollout, name=f"{environment}/digits"):
                if not old.ended:
                    transaction.update(old.moved(now, "aborted"), event="rollout.aborted")
            if transaction.maybe(Service, f"{environment}/digits") is None:
                transaction.insert(
                    Service(
                        id=f"{environment}/digits",
                        phase="serving",
                        created_at=now,
                        environment=environment,
                        model="digits",
                    ),
                    event="service.created",
                )
            id = revision_id(environment, "digits", version)
            if transaction.maybe(Revision, id) is None:
                revision = Revision(
                    id=id,
                    phase="ready",
                    created_at=now,
                    environment=environment,
                    model="digits",
                    model_version=version,
                    digest="x",
                    replicas=1,
                )
                transaction.insert(revision, event="revision.starting")
            number = 1 + len(transaction.find(Rollout))
            return transaction.insert(
                Rollout(
                    id=f"{environment}/digits/r{number}",
                    phase="progressing",
                    created_at=now,
                    environment=environment,
                    model="digits",
                    target=version,
                    digest="x",
                    strategy=DeploymentStrategy.CANARY,
                    replicas=1,
                    policy=RolloutPolicy(),
                    actor="tester",
                    pid=1,
                    phase_since=now,
                ),
                event="rollout.created",
            )


@pytest.mark.timeout(170)
@settings(max_examples=12)
@given(data=st.data())
def test_it_answers_like_somebody_who_watched(mlflow_with_versions: Path, data: st.DataObject) -> None:
    """Random moves of aliases, weights, promotions and ends of services; asked about random times."""
    clock = FakeClock()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / ".mlcycle"
        context = open_context(home, load_settings(environ={}), actor="tester@here", clock=clock)
        try:
            shutil.copy(mlflow_with_versions, home / "mlflow.db")
            world = World(context, clock)
            watched: list[tuple[datetime, dict[str, Any]]] = [(clock.now(), copy.deepcopy(world.seen))]
            for step in data.draw(st.lists(steps, min_size=1, max_size=10)):
                clock.advance(timedelta(seconds=data.draw(st.integers(1, 5000))))
                world.do(step)
                watched.append((clock.now(), copy.deepcopy(world.seen)))
            moments = [moment for moment, _ in watched]
            asked = [*moments, moments[-1] + timedelta(days=1)]
            for moment in moments:
                asked.append(moment - timedelta(microseconds=data.draw(st.integers(1, 900_000))))
            for moment in asked:
                truth = next((seen for at, seen in reversed(watched) if at <= moment), None)
                found = model_history(context.store, "digits", moment)
                expected = {"aliases": {}, "stable": {}, "weights": {}} if truth is None else truth
                assert found.aliases == expected["aliases"]
                assert found.deployments == expected["stable"]
                weights = {where: one.weights for where, one in found.deployed.items() if one.weights}
                assert weights == {where: one for where, one in expected["weights"].items() if one}
        finally:
            context.store.close()
