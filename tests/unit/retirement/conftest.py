"""A workspace with two packaged versions in a scripted world, and a driver that turns the controller."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.packages import Package, PackageStore, build_package
from mlcycle_nb.retirement.controller import RetirementController
from mlcycle_nb.retirement.decide import Action
from mlcycle_nb.retirement.records import Retirement
from mlcycle_nb.retirement.service import ModelRetirementManager
from mlcycle_nb.retirement.world import Caller
from mlcycle_nb.testing import FakeClock, ScriptedWorld

ENVIRONMENT, MODEL = "production", "digits"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Package]:
    """Two small real ONNX packages that take the same inputs."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(7)
    rows = rng.normal(size=(80, 4)).astype(np.float32)
    store = PackageStore(tmp_path_factory.mktemp("packages"))
    made = []
    for flip in (1.0, -1.0):
        labels = (rows[:, 0] * flip + rows[:, 1] > 0).astype(int)
        made.append(build_package(LogisticRegression().fit(rows, labels), example=rows, out=store))
    return made


@dataclass
class Retiring:
    """One workspace with a service, a controller and the world between them."""

    context: Context
    clock: FakeClock
    world: ScriptedWorld
    service: ModelRetirementManager
    controller: RetirementController
    packages: list[Package]

    def plan(self, **changes: object) -> Retirement:
        """Plan the retirement of version 1 by version 2."""
        wanted = {"replacement": f"{MODEL}/2", "reason": "version 2 is better", "grace": "7d", **changes}
        return self.service.plan_retirement(f"{MODEL}/1", environment=ENVIRONMENT, **wanted)  # type: ignore[arg-type]

    def start(self, **changes: object) -> Retirement:
        """Plan and execute."""
        return self.service.execute_retirement(self.plan(**changes).id).record

    def record(self, id: str) -> Retirement:
        return self.context.store.get(Retirement, id)

    def turn(self, id: str) -> Action | None:
        """Let the supervisor wake up once, for one record; return what it did."""
        record = self.record(id)
        if not record.active:
            return None
        seen = self.controller.observe(record)
        action = self.controller.next_action(record, seen, self.clock.now())
        if action is not None:
            self.controller.act(action, record, seen)
        return action

    def settle(self, id: str, limit: int = 50) -> list[str]:
        """Turn until nothing is left to do at this time; return the verbs."""
        verbs: list[str] = []
        for _ in range(limit):
            action = self.turn(id)
            if action is None:
                return verbs
            verbs.append(action.verb)
        raise AssertionError(f"does not settle: {verbs}")

    def pass_time(self, id: str, **length: float) -> list[str]:
        """Let time pass, then settle."""
        self.clock.advance(timedelta(**length))
        return self.settle(id)

    def call(self, name: str, pinned: int = 10) -> None:
        """Let a consumer call version 1."""
        now = self.clock.now()
        calls = self.world.called.setdefault((ENVIRONMENT, MODEL, 1), [])
        calls[:] = [one for one in calls if one.name != name]
        calls.append(
            Caller(
                name=name,
                requests=pinned + 5,
                pinned=pinned,
                first_seen=now,
                last_seen=now,
                last_pinned=now if pinned else None,
            )
        )

    def fill_notes(self, id: str) -> None:
        self.service.note(id, "migration", "call version 2; same inputs, same outputs")
        self.service.note(id, "contact", "the digits team")

    def finish(self, id: str) -> Retirement:
        """Let all the time pass that a retirement of four weeks takes."""
        self.settle(id)
        for _ in range(4):
            self.pass_time(id, days=7)
        self.fill_notes(id)
        self.settle(id)
        self.pass_time(id, days=7)
        return self.record(id)

    @property
    def package_folder(self) -> Path:
        return PackageStore(self.context.folder("packages")).path_of(self.packages[0].digest)


@pytest.fixture
def retiring(
    context: Context, fake_clock: FakeClock, built: list[Package], monkeypatch: pytest.MonkeyPatch
) -> Retiring:
    """Version 1 runs beside the stable version 2; nobody has called yet."""
    monkeypatch.setattr(Context, "ensure_supervisor", lambda self: None)  # the test itself takes the turns
    return make_retiring(context, fake_clock, built)


def make_retiring(context: Context, clock: FakeClock, built: list[Package]) -> Retiring:
    """Return a world in which version 1 of two may retire."""
    store = PackageStore(context.folder("packages"))
    for package in built:
        store.add(package.path)
    place = [(ENVIRONMENT, MODEL, version) for version in (1, 2)]
    world = ScriptedWorld(
        replicas=dict.fromkeys(place, 2),
        stables={(ENVIRONMENT, MODEL): 2},
        digests={(MODEL, number): package.digest for number, package in enumerate(built, 1)},
        named={MODEL: {"champion": 2}},
    )
    service = ModelRetirementManager.of_world(context, world, world, world)
    return Retiring(
        context, clock, world, service, RetirementController(context, world, world, world, look_seconds=0), built
    )
