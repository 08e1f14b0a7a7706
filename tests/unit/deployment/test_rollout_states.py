"""Rollouts from their beginning to their end, over a simulated gateway and simulated replicas."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mlcycle_nb.deployment.records import WHOLE, Revision, Rollout, Weight, share
from mlcycle_nb.deployment.revision_controller import RevisionObservation, next_action
from mlcycle_nb.errors import Conflict, InvalidInput, NotFound, Refused
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.store.audit import events


def phase(world, rollout: Rollout) -> str:
    return world.context.store.get(Rollout, rollout.id).phase


class TestFirstDeployment:
    """There is nothing to compare with, so readiness is all that is asked for."""

    def test_it_gets_everything_once_ready(self, world):
        rollout = world.deploy(1)
        assert world.service().split == ()

        world.settle(20)

        assert phase(world, rollout) == "completed"
        assert world.service().stable == 1
        assert world.served == {"digits": {1: WHOLE}}

    def test_one_that_never_becomes_ready_leaves_nothing(self, world):
        world.broken = {1}
        rollout = world.deploy(1)

        world.settle(30)

        assert phase(world, rollout) == "rolled_back"
        assert world.service().stable is None
        assert world.served == {}
        assert world.alive["production/digits/1"] == set()

    def test_what_failed_once_is_tried_again(self, world):
        """A version whose replicas could not start is not refused for ever: the next deployment starts them anew."""
        world.broken = {1}
        world.deploy(1)
        world.settle(30)
        assert world.context.store.get(Revision, "production/digits/1").phase == "stopped"
        world.broken = set()

        rollout = world.deploy(1)
        world.settle(20)

        assert phase(world, rollout) == "completed"

    def test_there_is_nothing_to_roll_back_to(self, world):
        world.deploy(1)
        world.settle(20)

        with pytest.raises(Refused, match="nothing to roll back to; digits/1 is the first deployment"):
            world.deployment.rollback_deployment("digits")


@pytest.fixture
def served(world):
    """Version 1 is stable."""
    world.deploy(1)
    world.settle(20)
    return world


class TestCanary:
    """Step by step, each with its time, its requests and its verdict."""

    def test_every_weight_is_used_in_order(self, served):
        rollout = served.deploy(2, steps="5,25,50,100")
        weights = []
        for _ in range(40):
            served.turn()
            weight = served.served["digits"].get(2, 0)
            if not weights or weights[-1] != weight:
                weights.append(weight)

        assert weights == [0, 500, 2500, 5000, WHOLE]
        assert phase(served, rollout) == "completed"
        assert served.service().stable == 2
        assert served.service().stables == (1, 2)

    def test_both_versions_get_copies_until_it_ends(self, served):
        served.deploy(2, mirror="30")
        served.settle(6)
        assert served.service().mirror == (Weight(1, 3000), Weight(2, 3000))

        served.settle(40)
        assert served.service().mirror == ()

    def test_no_requests_hold_it(self, served):
        served.rollouts.requests = 0
        rollout = served.deploy(2)

        served.settle(200)

        assert phase(served, rollout) == "progressing"
        assert served.served["digits"] == {1: 9500, 2: 500}

    def test_an_inconclusive_one_goes_back_at_the_deadline(self, served):
        served.rollouts.verdict = Outcome.INCONCLUSIVE
        rollout = served.deploy(2, deadline="60s")
        served.settle(40)
        assert phase(served, rollout) == "progressing"

        served.settle(60)

        assert phase(served, rollout) == "rolled_back"
        assert "still undecided at the deadline" in served.context.store.get(Rollout, rollout.id).reason
        assert served.served["digits"] == {1: WHOLE}

    @pytest.mark.parametrize("turns", [8, 13, 18])
    def test_a_failed_one_goes_back_and_says_why(self, served, turns):
        rollout = served.deploy(2, interval="5s")
        served.settle(turns)
        served.rollouts.verdict = Outcome.FAILED

        served.settle(20)

        ended = served.context.store.get(Rollout, rollout.id)
        assert ended.phase == "rolled_back"
        assert ended.reason == "as scripted"
        assert served.service().stable == 1
        assert served.served["digits"] == {1: WHOLE}
        assert served.alive["production/digits/2"] == set()

    def test_a_paused_one_keeps_its_weight_and_still_goes_back_when_it_fails(self, served):
        rollout = served.deploy(2)
        served.settle(8)
        served.deployment.pause(rollout.id)
        before = served.service().split
        served.settle(30)
        assert served.service().split == before

        served.rollouts.verdict = Outcome.FAILED
        served.settle(10)

        assert phase(served, rollout) == "rolled_back"

    def test_resume_goes_on(self, served):
        rollout = served.deploy(2)
        served.settle(8)
        served.deployment.pause("digits")
        served.settle(5)
        served.deployment.resume("digits")

        served.settle(40)

        assert phase(served, rollout) == "completed"

    def test_promote_skips_the_remaining_steps(self, served):
        rollout = served.deploy(2, interval="30m")
        served.settle(8)
        served.deployment.promote(rollout.id, reason="we know it")

        served.settle(8)

        assert phase(served, rollout) == "completed"
        assert served.served["digits"] == {2: WHOLE}

    def test_abort_is_no_failure(self, served):
        rollout = served.deploy(2)
        served.settle(8)
        served.deployment.abort(rollout.id, reason="not today")

        served.settle(10)

        ended = served.context.store.get(Rollout, rollout.id)
        assert (ended.phase, ended.reason) == ("aborted", "not today")


class TestOtherStrategies:
    """Blue-green and rolling."""

    def test_blue_green_switches_at_once_and_keeps_blue(self, served):
        served.rollouts.requests = 0
        rollout = served.deploy(2, strategy="blue-green", replicas=2)
        seen = set()
        for _ in range(15):
            served.turn()
            seen.add(tuple(sorted(served.served["digits"].items())))
        assert seen == {((1, WHOLE),), ((2, WHOLE),)}
        assert phase(served, rollout) == "progressing"
        assert served.alive["production/digits/1"] == {0, 1}

        served.rollouts.requests = 500
        served.settle(10)

        assert phase(served, rollout) == "completed"

    def test_a_failing_green_gives_way_to_blue(self, served):
        rollout = served.deploy(2, strategy="blue-green")
        served.settle(5)
        served.rollouts.verdict = Outcome.FAILED
        served.settle(10)

        assert phase(served, rollout) == "rolled_back"
        assert served.served["digits"] == {1: WHOLE}

    def test_rolling_never_has_fewer_replicas_than_before(self, served):
        rollout = served.deploy(2, strategy="rolling", replicas=2, interval="1s")
        running = []
        for _ in range(40):
            served.turn()
            running.append(sum(len(served.alive.get(f"production/digits/{v}", ())) for v in (1, 2)))

        assert phase(served, rollout) == "completed"
        assert min(running) >= 2
        assert max(running) <= 4  # the old ones stay warm at the end

    def test_an_aborted_rolling_grows_stable_back_first(self, served):
        rollout = served.deploy(2, strategy="rolling", replicas=2, interval="20s")
        for _ in range(20):
            served.turn()
            if served.alive["production/digits/1"] == {0}:
                break
        assert served.alive["production/digits/1"] == {0}
        served.deployment.abort(rollout.id)
        while served.served["digits"] != {1: WHOLE}:
            served.turn()
            assert served.served["digits"] != {1: WHOLE} or served.alive["production/digits/1"] == {0, 1}

        served.settle(10)
        assert phase(served, rollout) == "aborted"


class TestRollback:
    """A total function: it goes somewhere safe, or says why not before anything moves."""

    def test_there_and_back_again(self, served):
        served.deploy(2)
        served.settle(40)
        served.deployment.rollback_deployment("digits")
        served.settle(20)
        assert served.service().stable == 1

        served.deployment.rollback_deployment("digits")
        served.settle(20)

        assert served.service().stable == 2

    def test_a_stopped_version_is_started_and_waited_for(self, served):
        served.deploy(2, warm="1s")
        served.settle(60)
        assert served.context.store.get(Revision, "production/digits/1").phase == "stopped"

        served.deployment.rollback_deployment("digits", to=1)
        served.settle(2)
        assert served.served["digits"] == {2: WHOLE}
        served.settle(20)

        assert served.served["digits"] == {1: WHOLE}

    def test_a_package_that_is_gone_moves_nothing(self, served):
        served.deploy(2)
        served.settle(40)
        served.deployment.missing = ("digits/1",)

        with pytest.raises(Refused, match="package of digits/1 is gone, so nothing was moved"):
            served.deployment.rollback_deployment("digits")
        assert served.context.store.find(Rollout, active=True) == []

    def test_of_a_running_rollout_is_its_abort(self, served):
        rollout = served.deploy(2)
        served.settle(8)

        assert served.deployment.rollback_deployment("digits").id == rollout.id
        served.settle(10)

        assert phase(served, rollout) == "aborted"

    def test_to_a_version_that_never_was_stable_is_refused(self, served):
        with pytest.raises(Refused, match=r"was stable here.*digits/9"):
            served.deployment.rollback_deployment("digits", to=9)

    def test_a_sick_stable_does_not_hold_it_up(self, served):
        """Stable dies during the canary, which then fails: traffic goes back to what stable has."""
        rollout = served.deploy(2)
        served.settle(8)
        served.broken = {1}
        served.rollouts.verdict = Outcome.FAILED

        served.settle(150)

        assert phase(served, rollout) == "rolled_back"
        assert served.served["digits"] == {1: WHOLE}


class TestOneAtATime:
    """One rollout a service."""

    def test_the_second_is_refused_with_the_holder(self, served):
        rollout = served.deploy(2)
        served.settle(8)

        with pytest.raises(
            Conflict, match=rf"{rollout.id} of digits/2 by tester@here \(pid \d+\) is progressing, step 2/4"
        ):
            served.deploy(3)

    def test_the_same_again_attaches(self, served):
        assert served.deploy(2).id == served.deploy(2).id

    def test_supersede_waits_for_the_way_back(self, served):
        first = served.deploy(2)
        served.settle(8)
        second = served.deploy(3, supersede=True)
        assert second.phase == "queued"

        served.settle(60)

        assert phase(served, first) == "aborted"
        assert phase(served, second) == "completed"
        assert served.service().stables == (1, 3)

    def test_stable_already(self, served):
        with pytest.raises(Refused, match="digits/1 is stable in production already"):
            served.deploy(1)


class TestGates:
    """Production asks for passed gates."""

    def test_a_refused_version_stays_out(self, served):
        served.gates.refused = {3: "accuracy failed: 0.11 < 0.9"}

        with pytest.raises(Refused, match=r"digits/3 may not go to production: accuracy failed"):
            served.deploy(3)

    def test_force_needs_a_reason(self, served):
        with pytest.raises(InvalidInput, match="--force needs a reason"):
            served.deploy(3, force=True)

    def test_force_is_recorded_with_its_reason(self, served):
        served.gates.refused = {3: "accuracy failed"}

        served.deploy(3, force=True, reason="rehearsal")

        (entry,) = events(served.context.store, subject="model:digits/3")
        assert entry["event"] == "gate.overridden"
        assert entry["reason"] == "rehearsal"
        assert entry["detail"]["gates"] == "accuracy failed"

    def test_dev_has_no_gates(self, world):
        world.gates.refused = {3: "accuracy failed"}

        assert world.deployment.deploy_model("digits/3", "dev").record.target == 3


class TestNames:
    """What does not exist is named, with what does."""

    def test_environment(self, world):
        with pytest.raises(InvalidInput, match="did you mean 'production'"):
            world.deployment.deploy_model("digits/1", "prodction")

    def test_version(self, world):
        with pytest.raises(NotFound, match="no such version"):
            world.deploy(99)

    def test_a_version_is_needed(self, world):
        with pytest.raises(InvalidInput, match="needs MODEL/VERSION"):
            world.deployment.deploy_model("digits", "dev")

    def test_rollout(self, served):
        with pytest.raises(NotFound, match=r"no such rollout is running.*production/digits/r1"):
            served.deployment.abort("digits")

    def test_ended(self, served):
        with pytest.raises(Refused, match="r1 has ended: completed"):
            served.deployment.abort("production/digits/r1")


def test_the_old_version_stops_after_its_warm_time(served):
    """Kept warm for a while, then its replicas stop; its package and record stay."""
    served.deploy(2, warm="1m")
    served.settle(40)
    assert served.alive["production/digits/1"] == {0, 1}

    served.context.clock.advance(timedelta(minutes=1))
    served.settle(5)

    assert served.alive["production/digits/1"] == set()
    assert share(served.service().split, 2) == WHOLE


class TestTheClockIsSetBack:
    """Nothing waits until the clock has caught up."""

    def test_a_step_lasts_as_long_as_it_was_told(self, world):
        world.deploy(1)
        world.settle(20)
        rollout = world.deploy(2, strategy="canary", steps="10,100", interval="30s")
        world.settle(10)
        assert phase(world, rollout) == "progressing"

        world.context.clock.set_back(timedelta(hours=1))
        world.settle(25)
        assert phase(world, rollout) == "progressing", "what was left of its time is not known: it begins anew"
        world.settle(20)

        assert phase(world, rollout) == "completed"
        told = [event.text for event in world.context.store.get(Rollout, rollout.id).history]
        assert told.count("the clock was set back; the time of this step begins anew") == 1

    def test_a_few_seconds_are_not_worth_it(self, world):
        """Machines correct their clocks all the time."""
        world.deploy(1)
        world.settle(20)
        rollout = world.deploy(2, strategy="canary", steps="10,100", interval="30s")
        world.settle(10)

        world.context.clock.set_back(timedelta(seconds=4))
        world.settle(4)

        told = [event.text for event in world.context.store.get(Rollout, rollout.id).history]
        assert not any("clock" in text for text in told)

    def test_replicas_that_are_kept_warm_end(self, world):
        world.deploy(1)
        world.settle(20)
        world.deploy(2, warm="20s")
        world.settle(20)
        before = world.context.store.get(Revision, "production/digits/1")
        assert before.drain_at is not None

        world.context.clock.set_back(timedelta(hours=1))
        world.settle(40)

        assert world.context.store.get(Revision, "production/digits/1").phase == "stopped"

    def test_calls_in_times_to_come_keep_nothing_warm(self):
        now = datetime(2026, 1, 1, tzinfo=UTC)
        ready = Revision(
            id="production/digits/1", phase="ready", created_at=now, environment="production", model="digits",
            model_version=1, digest="d", replicas=1, drain_at=now, warm_seconds=60.0,
        )  # fmt: skip

        def phase_after(last_pinned):
            return next_action(ready, RevisionObservation(last_pinned=last_pinned), now).phase

        assert phase_after(now + timedelta(hours=1)) == "draining"
        assert phase_after(now - timedelta(seconds=10)) == "ready"
