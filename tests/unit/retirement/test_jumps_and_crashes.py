"""Random clock jumps, kills at each write and gateway trouble: no step skipped, none doubled, nothing deleted early."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlcycle_nb.context import Context, open_context
from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.packages import Package, PackageStore
from mlcycle_nb.retirement import archive
from mlcycle_nb.retirement.controller import RetirementController
from mlcycle_nb.retirement.records import WHOLE
from mlcycle_nb.settings import load_settings
from mlcycle_nb.store import Store
from mlcycle_nb.store.transaction import Transaction
from mlcycle_nb.testing import FakeClock
from tests.unit.retirement.conftest import ENVIRONMENT, MODEL, Retiring, make_retiring

SPLITS = [((1, WHOLE),), ((1, 7500), (2, 2500)), ((1, 5000), (2, 5000)), ((1, 2500), (2, 7500)), ((2, WHOLE),), ()]


class Killed(BaseException):
    """Stands for kill -9: nothing in the package may catch it."""


class Killer:
    """Kills at the n-th write of any kind: before it, or after it."""

    def __init__(self) -> None:
        self.countdown = -1
        self.writes = 0

    def __call__(self, *_: object) -> None:
        self.writes += 1
        if self.countdown == 0:
            self.countdown = -1
            raise Killed
        self.countdown -= self.countdown > 0


def fast_proof(context: Context, path: Path, sha256: str, digest: str) -> int:
    """All of the proof but the fresh interpreter, which other tests start."""
    from mlcycle_nb.packages.package import open_package
    from mlcycle_nb.retirement.proof import scratch

    archive.check_bytes(path, sha256)
    archive.check_members(path)
    with scratch(context) as folder:
        archive.extract(path, folder / "package", prefix=archive.PACKAGE_FOLDER)
        open_package(folder / "package", digest).check_files()
    return 1


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Killer:
    """Kills around every commit of the store; the world's writes are hooked by `renewed`."""
    killer = Killer()
    original = Store.transaction

    @contextmanager
    def transaction(self: Store, actor: str) -> Iterator[Transaction]:
        killer()
        with original(self, actor) as opened:
            yield opened
        killer()

    monkeypatch.setattr(Store, "transaction", transaction)
    monkeypatch.setattr(Context, "ensure_supervisor", lambda self: None)
    return killer


@contextmanager
def renewed(root: Path, built: list[Package], killer: Killer) -> Iterator[Retiring]:
    """A fresh workspace in which version 1 may retire, with the killer armed at nothing."""
    shutil.rmtree(root, ignore_errors=True)
    killer.countdown = -1
    clock = FakeClock()
    context = open_context(root / ".mlcycle", load_settings(environ={}), actor="tester@here", clock=clock)
    try:
        retiring = make_retiring(context, clock, built)
        world = retiring.world
        world.before_write = world.after_write = killer
        retiring.controller = RetirementController(context, world, world, world, prove=fast_proof, look_seconds=0)
        yield retiring
    finally:
        killer.countdown = -1
        context.store.close()


def live_or_archived(retiring: Retiring, id: str) -> bool:
    """Whether the package is somewhere whole, or its archive is proven and whole."""
    digest = retiring.packages[0].digest
    record = retiring.record(id)
    folders = [PackageStore(retiring.context.folder("packages")).path_of(digest)]
    folders += list((retiring.context.home / "tombstones").glob("*"))
    if any((folder / "model.onnx").is_file() for folder in folders):
        return True
    if record.archive is None or record.archive.verified_at is None:
        return False
    archive.check_bytes(retiring.context.home / record.archive.path, record.archive.sha256)
    return True


def distinct_splits(retiring: Retiring) -> list[tuple[tuple[int, int], ...]]:
    """Return the splits that the gateway had, with repeats in a row counted once."""
    found: list[tuple[tuple[int, int], ...]] = []
    for name, arguments in retiring.world.writes:
        if name == "set_address":
            split = arguments[-1].split  # type: ignore[attr-defined]
            if not found or found[-1] != split:
                found.append(split)
    return found


def wake(retiring: Retiring, id: str) -> str:
    """One wake-up: look, decide, act; a kill or a failure ends it, as it would in the supervisor."""
    try:
        action = retiring.turn(id)
    except Killed:
        return "killed"
    except MLCycleError:
        return "failed"
    return "" if action is None else action.verb


events = st.one_of(
    st.tuples(st.just("forward"), st.integers(0, 70 * 86_400)),
    st.tuples(st.just("back"), st.integers(0, 70 * 86_400)),
    st.tuples(st.just("kill"), st.integers(0, 4)),
    st.tuples(st.just("sick"), st.just(0)),
    st.tuples(st.just("lag"), st.just(0)),
    st.tuples(st.just("wake"), st.integers(1, 3)),
)


scripts = st.lists(events, min_size=3, max_size=25)
relaxed = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.timeout(600)
@settings(relaxed, max_examples=20)
@given(script=scripts)
def test_whatever_happens_each_step_is_taken_once_and_in_order(
    script: list[tuple[str, int]], killer: Killer, built: list[Package], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """After a random script of jumps, kills and trouble, a calm world brings the retirement to its end."""
    play(script, killer, built, tmp_path_factory.getbasetemp() / "jumps")


@pytest.mark.faults
@pytest.mark.timeout(3600)
@settings(relaxed, max_examples=300)
@given(script=scripts)
def test_whatever_happens_in_three_hundred_scripts(
    script: list[tuple[str, int]], killer: Killer, built: list[Package], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The same, long."""
    play(script, killer, built, tmp_path_factory.getbasetemp() / "jumps")


def play(script: list[tuple[str, int]], killer: Killer, built: list[Package], root: Path) -> None:
    with renewed(root, built, killer) as retiring:
        id = retiring.start().id
        world, clock = retiring.world, retiring.clock
        for what, size in script:
            world.replicas[ENVIRONMENT, MODEL, 2] = 0 if what == "sick" else 2
            world.lagging = what == "lag"
            if what != "lag":
                world.catch_up()
            if what == "forward":
                clock.advance(timedelta(seconds=size))
            elif what == "back":
                clock.set_back(timedelta(seconds=size))
            elif what == "kill":
                killer.countdown = size
            taken = [step.position for step in retiring.record(id).steps if step.taken_at]
            for _ in range(max(size, 1) if what == "wake" else 2):
                before = retiring.record(id)
                wake(retiring, id)
                after = retiring.record(id)
                stepped = [s.position for s in after.steps if s.taken_at and before.steps[s.position].taken_at is None]
                assert len(stepped) <= 1, "two steps in one wake-up"
                assert live_or_archived(retiring, id)
            later = [step.position for step in retiring.record(id).steps if step.taken_at]
            assert later[: len(taken)] == taken, "a step was taken back"
        killer.countdown = -1
        world.lagging, world.replicas[ENVIRONMENT, MODEL, 2] = False, 2
        world.catch_up()
        if retiring.record(id).phase in ("ramping", "paused", "handover"):
            retiring.fill_notes(id)
        for _ in range(400):
            if not wake(retiring, id):
                if not retiring.record(id).active:
                    break
                clock.advance(timedelta(days=7))
            assert live_or_archived(retiring, id)
        record = retiring.record(id)

        assert record.phase == "completed"
        assert distinct_splits(retiring) == SPLITS
        dues = [step.due_at for step in record.steps[:5]]
        assert all(s.taken_at is not None and s.taken_at >= due for s, due in zip(record.steps, dues, strict=False))
        assert not retiring.package_folder.exists()


def writes_of_a_calm_run(root: Path, built: list[Package], killer: Killer) -> int:
    with renewed(root, built, killer) as retiring:
        id = retiring.start().id
        killer.writes = 0
        retiring.finish(id)
        return killer.writes


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.faults)])
def test_killed_at_every_write_it_goes_on_to_the_same_end(
    stride: int, killer: Killer, built: list[Package], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One run for each write that a calm run makes (or each seventh), killed right there, then left alone."""
    root = tmp_path_factory.getbasetemp() / "kills"
    points = writes_of_a_calm_run(root, built, killer)
    assert points > 40
    for point in range(0, points, stride):
        with renewed(root, built, killer) as retiring:
            id = retiring.start().id
            killer.countdown = point
            killed = 0
            for _ in range(300):
                verb = wake(retiring, id)
                killed += verb == "killed"
                assert live_or_archived(retiring, id)
                if retiring.record(id).phase == "handover" and not retiring.record(id).notes:
                    countdown, killer.countdown = killer.countdown, -1
                    retiring.fill_notes(id)
                    killer.countdown = countdown
                if not verb:
                    if not retiring.record(id).active:
                        break
                    retiring.clock.advance(timedelta(days=7))

            assert retiring.record(id).phase == "completed", point
            assert distinct_splits(retiring) == SPLITS, point
            assert not retiring.package_folder.exists(), point


@pytest.mark.timeout(600)
@pytest.mark.parametrize("weeks", range(7))
def test_killed_at_every_write_of_a_cancel_everything_comes_back(
    weeks: int, killer: Killer, built: list[Package], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """From each place of a retirement: cancel, kill at each write, go on, and the difference is empty."""
    root = tmp_path_factory.getbasetemp() / "cancels"
    for point in range(0, 8, 2):
        with renewed(root, built, killer) as retiring:
            world = retiring.world
            world.named[MODEL]["previous"] = 1
            before = (dict(world.declared), dict(world.named[MODEL]), dict(world.replicas))
            id = retiring.start().id
            retiring.settle(id)
            for week in range(min(weeks, 5)):
                if week == 4:
                    retiring.fill_notes(id)
                retiring.pass_time(id, days=6)
                retiring.pass_time(id, days=1)
            if weeks == 6:
                assert retiring.record(id).tombstone
            retiring.service.cancel(id, reason="changed our minds")
            killer.countdown = point
            for _ in range(60):
                if not wake(retiring, id) and not retiring.record(id).active:
                    break

            assert retiring.record(id).phase == "cancelled", point
            assert (dict(world.declared), dict(world.named[MODEL]), dict(world.replicas)) == before, point
            assert not world.tagged.get((MODEL, 1)), point
            assert retiring.package_folder.is_dir(), point
