"""Decisions about replicas and gateways, and the plan that records make."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlcycle_nb.deployment import replicas
from mlcycle_nb.deployment.gateway_controller import GatewayObservation
from mlcycle_nb.deployment.gateway_controller import next_action as gateway_action
from mlcycle_nb.deployment.keys import ConsumerKeys, key_digest
from mlcycle_nb.deployment.plan import make_plan
from mlcycle_nb.deployment.records import WHOLE, Consumer, Gateway, PinnedRoute, Revision, Service, Weight
from mlcycle_nb.deployment.replicas import Replica, ReplicaMemory
from mlcycle_nb.deployment.revision_controller import Move, ReplicaSeen, RevisionObservation, Start, Stop
from mlcycle_nb.deployment.revision_controller import next_action as revision_action
from mlcycle_nb.errors import EngineError, InvalidInput
from mlcycle_nb.serving.gateway import GatewayPlan

NOW = datetime(2026, 1, 1, tzinfo=UTC)
READY = Revision(
    id="production/digits/1", phase="ready", created_at=NOW, environment="production", model="digits",
    model_version=1, digest="sha256:x", replicas=2,
)  # fmt: skip
STARTING, DRAINING = replace(READY, phase="starting"), replace(READY, phase="draining")


def seen(*replicas: ReplicaSeen, **other) -> RevisionObservation:
    return RevisionObservation(replicas=replicas, **other)


def replica(index: int, **state) -> ReplicaSeen:
    return ReplicaSeen(index=index, **{"alive": True, "ready": True, "routed": True, **state})


class TestGolden:
    """The test that each new process has to pass."""

    @pytest.mark.parametrize(("lives", "refused"), [(True, "the golden batch is answered wrongly: MLC"), (False, "")])
    def test_no_answer_is_a_wrong_one_only_from_a_process_that_lives(self, context, monkeypatch, lives, refused):
        """A replica that is killed in the middle of its test is started again, as at any other moment."""
        replica = Replica(context, STARTING, 0, ReplicaMemory())
        answers = [True, lives]
        monkeypatch.setattr(replica, "_answers", lambda: answers.pop(0))
        replica.socket.parent.mkdir(parents=True, exist_ok=True)
        replica.socket.touch()

        def broken(*_: object) -> str:
            raise EngineError("cannot be reached: [Errno 111] Connection refused")

        monkeypatch.setattr(replicas, "golden_answer", broken)
        replica._try_golden()

        assert replica.memory.refused.startswith(refused)
        assert bool(replica.memory.refused) == bool(refused)
        assert not replica.memory.golden
        replica.socket.unlink()


DEAD = {"alive": False, "ready": False}


class TestRevision:
    """Replicas are started at once, and stopped only when no request can reach them."""

    @pytest.mark.parametrize(
        ("record", "observation", "action"),
        [
            (STARTING, seen(replica(0, **DEAD), replica(1, **DEAD)), Start(0)),
            (STARTING, seen(replica(0), replica(1, **DEAD)), Start(1)),
            (STARTING, seen(replica(0), replica(1, ready=False)), None),
            (STARTING, seen(replica(0), replica(1)), Move("ready")),
            (READY, seen(replica(0), replica(1)), None),
            (READY, seen(replica(0, **DEAD), replica(1)), Start(0)),
            (READY, seen(replica(0, may_start=False, **DEAD), replica(1)), None),
            (READY, seen(replica(0, stuck=True), replica(1)), Stop(0, gently=False)),
            (READY, seen(replica(0), replica(1), replica(2)), None),
            (READY, seen(replica(0), replica(1), replica(2, routed=False)), Stop(2)),
            (READY, seen(replica(0), replica(1), replica(2, stuck=True)), Stop(2, gently=False)),
            (DRAINING, seen(replica(0), replica(1)), None),
            (DRAINING, seen(replica(0), replica(1, stuck=True), gateway_drained=False), Stop(1, gently=False)),
            (DRAINING, seen(replica(0, routed=False), replica(1)), Stop(0)),
            (DRAINING, seen(replica(0, routed=False), gateway_drained=False), None),
            (DRAINING, seen(replica(0, **DEAD), replica(1, **DEAD)), Move("stopped")),
        ],
    )
    def test_next_action(self, record, observation, action):
        assert revision_action(record, observation, NOW) == action

    def test_a_warm_one_leaves_when_its_time_is_over(self):
        warm = replace(READY, drain_at=NOW, warm_seconds=60.0)
        both = (replica(0), replica(1))

        assert revision_action(warm, seen(*both), NOW - timedelta(seconds=1)) is None
        assert revision_action(warm, seen(*both), NOW) == Move("draining")
        assert revision_action(warm, seen(*both, in_use=True), NOW) == Move("ready")

    def test_one_whose_own_address_was_asked_stays_for_as_long_again(self):
        warm = replace(READY, drain_at=NOW, warm_seconds=60.0)
        asked = NOW - timedelta(seconds=20)

        action = revision_action(warm, seen(replica(0), replica(1), last_pinned=asked), NOW)

        assert action == Move("ready", asked + timedelta(seconds=60))


class TestGateway:
    """It runs before all else, then gets its plan."""

    @pytest.mark.parametrize(
        ("state", "action"),
        [
            ({"alive": False}, "start"),
            ({"applied": False}, "apply"),
            ({"drained": False}, "apply"),
            ({"plan": None, "applied": False}, None),
            ({"maintenance_due": True}, "maintain"),
            ({}, None),
        ],
    )
    def test_next_action(self, state, action):
        fields = {
            "alive": True, "plan": GatewayPlan(fence=1, generation=1), "generations": {}, "applied": True,
            "drained": True, **state,
        }  # fmt: skip
        record = Gateway(id="production", phase="running", created_at=NOW)

        assert gateway_action(record, GatewayObservation(**fields), NOW) == action


SERVICE = Service(
    id="production/digits", phase="serving", created_at=NOW, environment="production", model="digits", stable=1,
    split=(Weight(1, WHOLE),),
)  # fmt: skip


class TestPlan:
    """Records become the gateway's plan."""

    def make(self, *services: Service, revisions=(READY,), consumers=(), keys=None) -> GatewayPlan:
        return make_plan(Path("/w"), services, revisions, consumers, keys or {})

    def test_a_service_that_is_not_ready_has_no_address(self):
        plan = self.make(replace(SERVICE, split=()), revisions=[STARTING])
        assert (plan.services, plan.clusters) == ((), ())

    def test_a_split_to_a_version_that_drains_is_refused(self):
        with pytest.raises(InvalidInput, match="versions without replicas"):
            self.make(SERVICE, revisions=[DRAINING])

    def test_copies_go_to_living_versions_only(self):
        plan = self.make(replace(SERVICE, mirror=(Weight(1, 100), Weight(2, 100))))
        assert plan.services[0].mirror == ((1, 100),)

    def test_a_retired_address_names_its_successor(self):
        plan = self.make(replace(SERVICE, pinned=(PinnedRoute(version=0 + 5, gone=True, successor="digits/1"),)))
        assert plan.services[0].pinned[0].gone

    def test_revoked_consumers_and_foreign_keys_are_left_out(self):
        key = "k" * 20
        consumer = Consumer(
            id="production/alice", phase="active", created_at=NOW, environment="production", key_digest=key_digest(key)
        )
        revoked = replace(consumer, id="production/bob", phase="revoked")
        changed = replace(consumer, id="production/eve", key_digest="another")
        keys = {"alice": key, "bob": key + "b", "eve": key + "e"}

        assert self.make(SERVICE, consumers=[consumer, revoked, changed], keys=keys).consumers == {"alice": key}


def test_keys_are_private_and_long(tmp_path):
    """The file is this user's alone, and no key comes twice."""
    keys = ConsumerKeys(tmp_path)
    first, second = keys.make("a"), keys.make("b")

    assert len(first) >= 43
    assert first != second
    assert keys.file.stat().st_mode & 0o777 == 0o600
    keys.forget("a")
    assert keys.read() == {"b": second}
