"""Shadows: stable keeps every request, the end comes by itself, and a verdict opens the way to a canary or does not."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mlcycle_nb.deployment.policy import make_policy
from mlcycle_nb.deployment.records import WHOLE, DeploymentStrategy, Revision, Rollout, Weight
from mlcycle_nb.errors import InvalidInput, Refused
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.store.audit import events


def read(world, rollout: Rollout) -> Rollout:
    return world.context.store.get(Rollout, rollout.id)


@pytest.fixture
def served(world):
    """Version 1 is stable."""
    world.deploy(1)
    world.settle(20)
    return world


class TestTheWayThrough:
    """From copies to a verdict; no request is ever moved."""

    def test_stable_keeps_everything_while_copies_go_out(self, served):
        rollout = served.deploy(2, strategy="shadow", mirror="30%", duration="20s")
        weights, mirrors = set(), set()
        for _ in range(50):
            served.turn()
            weights.add(tuple(served.served["digits"].items()))
            mirrors.add(served.service().mirror)

        assert weights == {((1, WHOLE),)}
        assert mirrors == {(), (Weight(2, 3000),)}
        ended = read(served, rollout)
        assert (ended.phase, ended.verdict, served.service().stable) == ("compared", "passed", 1)
        assert served.service().mirror == ()
        assert "1000 requests were compared, its 20 s are over" in ended.reason

    def test_enough_requests_end_it_before_its_time(self, served):
        served.rollouts.requests = 499
        rollout = served.deploy(2, strategy="shadow", compare=500, duration="1h")
        served.settle(20)
        assert read(served, rollout).phase == "progressing"

        served.rollouts.requests = 500
        served.settle(5)

        assert read(served, rollout).verdict == "passed"
        assert "500 requests were asked for" in read(served, rollout).reason

    def test_a_failure_ends_it_at_once_with_its_reason(self, served):
        served.rollouts.verdict = Outcome.FAILED
        rollout = served.deploy(2, strategy="shadow", duration="1h")

        served.settle(12)

        ended = read(served, rollout)
        assert (ended.phase, ended.verdict, ended.reason) == ("compared", "failed", "as scripted")
        assert served.alive["production/digits/2"] == set()

    def test_undecided_is_inconclusive(self, served):
        served.rollouts.verdict, served.rollouts.requests = Outcome.INCONCLUSIVE, 3
        rollout = served.deploy(2, strategy="shadow", duration="5s")

        served.settle(20)

        assert read(served, rollout).verdict == "inconclusive"
        assert read(served, rollout).reason == "3 requests were compared, its 5 s are over: as scripted"

    def test_a_good_one_stays_warm_for_a_canary(self, served):
        served.deploy(2, strategy="shadow", duration="5s", warm="2m")
        served.settle(20)
        assert served.alive["production/digits/2"] == {0, 1}

        served.context.clock.advance(timedelta(minutes=2))
        served.settle(5)

        assert served.alive["production/digits/2"] == set()

    def test_replicas_that_do_not_start_are_no_verdict(self, served):
        served.broken = {2}
        rollout = served.deploy(2, strategy="shadow")

        served.settle(30)

        assert (read(served, rollout).phase, read(served, rollout).verdict) == ("rolled_back", "")

    def test_a_sick_stable_does_not_keep_the_copies_going(self, served):
        rollout = served.deploy(2, strategy="shadow", duration="5s")
        served.settle(6)
        served.broken = {1}

        served.settle(12)

        assert read(served, rollout).phase == "compared"

    def test_the_audit_trail_has_the_verdict(self, served):
        rollout = served.deploy(2, strategy="shadow", duration="5s")
        served.settle(20)

        told = [entry["event"] for entry in events(served.context.store, subject=f"rollout:{rollout.id}")]

        assert told[-3:] == ["rollout.concluding", "rollout.concluding", "rollout.compared"]


class TestVerbs:
    """What a person may do to it."""

    def test_the_first_deployment_cannot_be_one(self, world):
        with pytest.raises(Refused, match="nothing else is stable"):
            world.deploy(1, strategy="shadow")
        assert world.context.store.find(Rollout) == []

    def test_abort_ends_the_copies(self, served):
        rollout = served.deploy(2, strategy="shadow", duration="1h")
        served.settle(6)
        assert served.service().mirror

        served.deployment.abort("digits", reason="enough")
        served.settle(5)

        assert (read(served, rollout).phase, read(served, rollout).verdict) == ("aborted", "")
        assert served.service().mirror == ()

    def test_a_paused_one_does_not_end_until_resumed(self, served):
        rollout = served.deploy(2, strategy="shadow", duration="10s")
        served.settle(6)
        served.deployment.pause("digits")
        served.settle(30)
        assert read(served, rollout).phase == "paused"

        served.deployment.resume("digits")
        served.settle(15)

        assert read(served, rollout).verdict == "passed"

    def test_a_rollback_meanwhile_is_a_rollback(self, served):
        served.deploy(2)
        served.settle(40)
        shadow = served.deploy(3, strategy="shadow", duration="1h")
        served.settle(6)

        handle = served.deployment.rollback_deployment("digits")
        served.settle(40)

        assert handle.id != shadow.id
        assert served.service().stable == 1
        assert read(served, shadow).phase == "aborted"

    def test_a_rollback_to_what_is_stable_leaves_it_alone(self, served):
        rollout = served.deploy(2, strategy="shadow", duration="1h")
        served.settle(6)

        with pytest.raises(Refused, match="digits/1 is stable in production already"):
            served.deployment.rollback_deployment("digits", to=1)
        assert read(served, rollout).phase == "progressing"
        served.deployment.abort(rollout.id)

    def test_too_late_to_abort(self, served):
        rollout = served.deploy(2, strategy="shadow", duration="3s")
        for _ in range(20):
            served.rollout_turn()
            served.context.clock.advance(timedelta(seconds=1))
            if read(served, rollout).phase == "concluding":
                break
            served.revision_turn()
            served.gateway_turn()
        with pytest.raises(Refused, match="concluding already"):
            served.deployment.abort(rollout.id)


class TestPromote:
    """A canary follows a shadow that was good, and no other."""

    def shadow(self, served, **options) -> Rollout:
        rollout = served.deploy(2, strategy="shadow", duration="5s", max_disagreement=0.02, **options)
        served.settle(20)
        return rollout

    def test_a_canary_of_the_same_version_with_the_same_tolerance(self, served):
        self.shadow(served, replicas=3)

        record = served.deployment.promote().record

        assert (record.strategy, record.target, record.replicas) == (DeploymentStrategy.CANARY, 2, 3)
        assert record.policy.max_disagreement == 0.02
        served.deployment.abort(record.id)

    def test_what_the_shadow_had_to_show_the_canary_has_to(self, served):
        """Also a metric that is optional by default, and however long the old version is kept."""
        served.deploy(2, strategy="shadow", duration="10s", require="accuracy", warm="2w")
        served.settle(40)

        record = served.deployment.promote().record

        assert (record.policy.optional, record.policy.watched) == (("prediction-shift",), ())
        assert record.policy.warm_seconds == 14 * 86_400
        served.deployment.abort(record.id)

    @pytest.mark.parametrize(("verdict", "words"), [(Outcome.FAILED, "failed"), (Outcome.INCONCLUSIVE, "inconclusive")])
    def test_none_follows_another_verdict(self, served, verdict, words):
        served.rollouts.verdict = verdict
        self.shadow(served)

        with pytest.raises(Refused, match=rf"no canary follows: the shadow .* is {words}: .*as scripted.*--canary"):
            served.deployment.promote("digits")
        assert served.context.store.find(Rollout, active=True) == []

    def test_none_follows_when_another_version_is_stable_by_now(self, served):
        shadow = self.shadow(served)
        served.deploy(3)
        served.settle(40)

        with pytest.raises(Refused, match="compared with digits/1, and digits/3 is stable now"):
            served.deployment.promote(shadow.id)

    def test_a_running_one_that_has_passed_gives_way(self, served):
        shadow = served.deploy(2, strategy="shadow", duration="1h")
        served.settle(6)
        with pytest.raises(Refused, match="has not passed yet: nothing was compared yet"):
            served.deployment.promote("digits")
        metric = {"name": "error rate", "mode": "required", "outcome": "passed", "reason": ""}
        served.context.store.observe(Rollout, shadow.id, judgement={"metrics": [metric]})

        canary = served.deployment.promote("digits")
        assert canary.record.phase == "queued"
        served.settle(20)

        assert (read(served, shadow).phase, read(served, shadow).verdict) == ("compared", "passed")
        assert canary.record.phase == "progressing"
        assert served.service().split == (Weight(1, 9500), Weight(2, 500))

    def test_closed_gates_leave_a_running_one_alone(self, served):
        shadow = served.deploy(2, strategy="shadow", duration="1h")
        served.settle(6)
        metric = {"name": "error rate", "mode": "required", "outcome": "passed", "reason": ""}
        served.context.store.observe(Rollout, shadow.id, judgement={"metrics": [metric]})
        served.gates.refused = {2: "the verdict is void"}

        with pytest.raises(Refused, match="the verdict is void"):
            served.deployment.promote("digits")
        assert read(served, shadow).phase == "progressing"
        served.gates.refused = {}
        served.deployment.abort(shadow.id)

    def test_one_without_an_end_is_too_early(self, served):
        shadow = served.deploy(2, strategy="shadow", duration="1h")

        with pytest.raises(Refused, match=f"the shadow {shadow.id} is preparing"):
            served.deployment.promote("digits")
        served.deployment.abort(shadow.id)


class TestPolicy:
    """Options that belong together, and those that do not."""

    def test_defaults(self):
        policy = make_policy(DeploymentStrategy.SHADOW)
        assert (policy.deadline_seconds, policy.compared, policy.mirror, policy.min_requests) == (1800.0, 0, 2000, 100)

    @pytest.mark.parametrize(
        ("strategy", "option", "words"),
        [
            ("shadow", {"interval": "5s"}, "--interval does not belong to a shadow"),
            ("shadow", {"deadline": "5m"}, "--deadline does not belong to a shadow"),
            ("shadow", {"steps": "5,100"}, "--steps belong to a canary"),
            ("shadow", {"mirror": 0}, "--mirror must be a percentage from 1 to 100"),
            ("shadow", {"compare": 0}, "--compare must be a whole number from 1"),
            ("shadow", {"duration": "soon"}, "--duration"),
            ("canary", {"duration": "5m"}, "--duration does not belong to a canary"),
            ("rolling", {"compare": 100}, "--compare does not belong to a rolling"),
        ],
    )
    def test_refused(self, strategy, option, words):
        with pytest.raises(InvalidInput, match=words):
            make_policy(DeploymentStrategy(strategy), **option)


def test_a_stopped_target_is_started_again(served):
    """A version that was stable once may be shadowed."""
    served.deploy(2, warm="1s")
    served.settle(60)
    assert served.context.store.get(Revision, "production/digits/1").phase == "stopped"

    rollout = served.deploy(1, strategy="shadow", duration="5s")
    served.settle(30)

    assert read(served, rollout).verdict == "passed"
