"""A retirement of 28 days, driven turn by turn with a clock that moves only when told."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mlcycle_nb.retirement.records import WHOLE, Address
from tests.unit.retirement.conftest import ENVIRONMENT, MODEL, Retiring

PLACE = (ENVIRONMENT, MODEL, 1)


def addresses(retiring: Retiring) -> list[Address]:
    return [arguments[-1] for name, arguments in retiring.world.writes if name == "set_address"]  # type: ignore[misc]


class TestTwentyEightDays:
    def test_runs_through_every_share_and_ends_deleted(self, retiring: Retiring) -> None:
        """100, 75, 50, 25, 0, then 410; archive proven; package deleted after its grace; each once."""
        id = retiring.start().id
        record = retiring.finish(id)

        assert record.phase == "completed"
        assert [address.split for address in addresses(retiring)] == [
            ((1, WHOLE),),
            ((1, 7500), (2, 2500)),
            ((1, 5000), (2, 5000)),
            ((1, 2500), (2, 7500)),
            ((2, WHOLE),),
            (),
        ]
        assert addresses(retiring)[-1].gone
        assert addresses(retiring)[-1].successor == "digits/2"
        assert record.archive is not None
        assert record.archive.golden_rows > 0
        assert not retiring.package_folder.exists()
        assert retiring.service.verify(id).passed, retiring.service.verify(id)

    def test_due_times_are_absolute_and_a_week_apart(self, retiring: Retiring) -> None:
        """Told on day 0, then a step every seven days, and 410 with the last."""
        record = retiring.plan()
        start = retiring.clock.now()

        assert [(step.due_at - start).days for step in record.steps] == [0, 7, 14, 21, 28, 28]
        assert [step.share for step in record.steps] == [10_000, 7_500, 5_000, 2_500, 0, 0]

    def test_nothing_moves_before_its_time(self, retiring: Retiring) -> None:
        """One second before the due time the share is what it was."""
        id = retiring.start().id
        retiring.settle(id)

        assert retiring.pass_time(id, days=7, seconds=-1) == []
        assert retiring.record(id).share == WHOLE
        assert retiring.pass_time(id, seconds=1) == ["take", "confirm"]
        assert retiring.record(id).share == 7500

    def test_answers_say_deprecation_sunset_and_successor(self, retiring: Retiring) -> None:
        """Every answer of the address tells since when, until when, and what instead."""
        id = retiring.start().id
        retiring.settle(id)
        headers = retiring.world.declared[PLACE].headers

        assert headers["Deprecation"] == f"@{int(retiring.clock.now().timestamp())}"
        assert headers["Sunset"] == "Thu, 29 Jan 2026 00:00:00 GMT"
        assert headers["Link"] == '</v2/models/digits/versions/2>; rel="successor-version"'

    def test_execution_later_than_the_plan_moves_all_times(self, retiring: Retiring) -> None:
        """Times count from the start, and not from the plan."""
        plan = retiring.plan()
        retiring.clock.advance(timedelta(days=3))
        record = retiring.service.execute_retirement(plan.id).record

        assert record.steps[0].due_at == retiring.clock.now()
        assert record.steps[-1].due_at - record.steps[0].due_at == timedelta(days=28)

    def test_executing_twice_attaches(self, retiring: Retiring) -> None:
        """The second call starts nothing anew."""
        id = retiring.start().id
        retiring.settle(id)
        retiring.pass_time(id, days=7)
        again = retiring.service.execute_retirement(id).record

        assert again.share == 7500


class TestLooks:
    def test_a_ramp_at_rest_is_looked_at_now_and_then(self, retiring: Retiring) -> None:
        """Within the time of a look the gateway is not asked again; when a step is due it always is."""
        from mlcycle_nb.retirement.controller import RetirementController

        world, asked = retiring.world, []
        original = world.in_force

        def counted(*place: object) -> Address:
            asked.append(place)
            return original(*place)  # type: ignore[arg-type]

        world.in_force = counted  # type: ignore[method-assign]
        retiring.controller = RetirementController(retiring.context, world, world, world, look_seconds=1.0)
        id = retiring.start().id
        retiring.settle(id)
        asked.clear()
        for _ in range(10):
            assert retiring.settle(id) == []
        assert len(asked) <= 1
        retiring.pass_time(id, seconds=1)
        assert len(asked) <= 2
        assert retiring.pass_time(id, days=7) == ["take", "confirm"]


class TestSettled:
    def test_it_is_settled_when_it_waits_for_time_or_people(self, retiring: Retiring) -> None:
        """At each rest of a whole retirement, and not between."""
        from mlcycle_nb.retirement.decide import is_settled

        id = retiring.start().id
        rests = 0
        for _ in range(200):
            settled = is_settled(retiring.record(id), retiring.clock.now())
            acted = retiring.turn(id) is not None
            assert settled is not acted
            if retiring.record(id).phase == "handover" and not retiring.record(id).notes:
                retiring.fill_notes(id)
            elif settled:
                rests += 1
                retiring.clock.advance(timedelta(days=7))
            if not retiring.record(id).active:
                break

        assert is_settled(retiring.record(id), retiring.clock.now())
        assert rests == 5

    def test_settle_gives_up_in_time(self, retiring: Retiring) -> None:
        """Nobody turns the controller here, so what is due is never done."""
        from mlcycle_nb.errors import WaitTimeout

        id = retiring.start().id
        with pytest.raises(WaitTimeout):
            retiring.service.settle(id, timeout=0.05)


class TestClock:
    def test_a_jump_of_nine_weeks_takes_one_step(self, retiring: Retiring) -> None:
        """Whatever was missed, a wake-up takes one step, and the next waits its full time."""
        id = retiring.start().id
        retiring.settle(id)

        assert retiring.pass_time(id, weeks=9) == ["take", "confirm"]
        assert retiring.record(id).share == 7500
        assert retiring.pass_time(id, days=6) == []
        assert retiring.pass_time(id, days=1) == ["take", "confirm"]
        assert retiring.record(id).share == 5000

    def test_a_late_step_moves_the_sunset(self, retiring: Retiring) -> None:
        """What the answers say stays true when the plan is late."""
        id = retiring.start().id
        retiring.settle(id)
        before = retiring.world.declared[PLACE].headers["Sunset"]
        retiring.pass_time(id, weeks=3)

        assert retiring.record(id).gone_at == retiring.clock.now() + timedelta(days=21)
        assert retiring.world.declared[PLACE].headers["Sunset"] != before

    def test_a_tick_of_lateness_moves_nothing_visible(self, retiring: Retiring) -> None:
        """Seconds of delay, as every loop has, must not shift a plan of weeks."""
        id = retiring.start().id
        retiring.settle(id)
        planned = retiring.record(id).gone_at
        retiring.pass_time(id, days=7, seconds=5)

        assert retiring.record(id).gone_at == planned

    def test_a_clock_set_back_repeats_nothing(self, retiring: Retiring) -> None:
        """A step that was taken stays taken; the next waits for its own time."""
        id = retiring.start().id
        retiring.settle(id)
        retiring.pass_time(id, days=7)
        retiring.clock.set_back(timedelta(days=30))

        assert retiring.settle(id) == []
        assert retiring.record(id).share == 7500
        assert retiring.pass_time(id, days=37) == ["take", "confirm"]
        assert retiring.record(id).share == 5000


class TestReplacement:
    def test_an_unhealthy_replacement_pauses_and_keeps_the_last_share(self, retiring: Retiring) -> None:
        """No further share goes to a version without healthy replicas, and none is taken back."""
        id = retiring.start().id
        retiring.settle(id)
        retiring.pass_time(id, days=7)
        retiring.world.replicas[ENVIRONMENT, MODEL, 2] = 0

        assert retiring.pass_time(id, days=7) == ["pause"]
        assert retiring.record(id).blockers == ("digits/2 has no healthy replica in production",)
        assert retiring.world.declared[PLACE].split == ((1, 7500), (2, 2500))
        assert retiring.pass_time(id, days=7) == []

        retiring.world.replicas[ENVIRONMENT, MODEL, 2] = 2
        assert retiring.settle(id) == ["resume", "take", "confirm"]
        assert retiring.record(id).share == 5000

    def test_a_step_that_is_not_in_force_holds_the_next(self, retiring: Retiring) -> None:
        """The gateway has to answer as asked before the next due time counts."""
        id = retiring.start().id
        retiring.settle(id)
        retiring.world.lagging = True

        assert retiring.pass_time(id, days=7) == ["take"]
        assert retiring.pass_time(id, days=14) == []
        retiring.world.catch_up()
        retiring.world.lagging = False
        assert retiring.settle(id) == ["confirm", "take", "confirm"]

    def test_an_address_that_somebody_changed_is_set_again(self, retiring: Retiring) -> None:
        """What the record says is brought back, without another step."""
        id = retiring.start().id
        retiring.settle(id)
        retiring.world.set_address(*PLACE, Address(planned=True, split=((2, WHOLE),)))

        assert retiring.settle(id) == ["apply"]
        assert retiring.world.declared[PLACE].split == ((1, WHOLE),)

    def test_the_stable_version_waits_for_its_replacement(self, retiring: Retiring) -> None:
        """Default traffic moves by a rollout; until then no share of the own address moves."""
        retiring.world.stables[ENVIRONMENT, MODEL] = 1
        id = retiring.start().id
        retiring.settle(id)

        assert retiring.pass_time(id, days=7) == ["pause"]
        assert "digits/1 still is the stable version" in retiring.record(id).blockers[0]
        retiring.world.stables[ENVIRONMENT, MODEL] = 2
        assert retiring.settle(id) == ["resume", "take", "confirm"]

    def test_a_version_without_replicas_is_redirected_at_once(self, retiring: Retiring) -> None:
        """Whoever still calls it is answered by the replacement, with the headers, until 410."""
        del retiring.world.replicas[PLACE]
        id = retiring.start().id
        retiring.settle(id)

        assert retiring.world.declared[PLACE].split == ((2, WHOLE),)
        assert retiring.world.declared[PLACE].headers["Sunset"]

    def test_a_version_that_loses_its_replicas_is_redirected(self, retiring: Retiring) -> None:
        """A share of nothing would be failed requests."""
        id = retiring.start().id
        retiring.settle(id)
        retiring.pass_time(id, days=7)
        del retiring.world.replicas[PLACE]

        assert retiring.settle(id) == ["redirect", "confirm"]
        assert retiring.world.declared[PLACE].split == ((2, WHOLE),)

    def test_aliases_move_before_the_end(self, retiring: Retiring) -> None:
        """An alias of the version names the replacement when the address is gone."""
        retiring.world.named[MODEL]["previous"] = 1
        id = retiring.start().id
        retiring.finish(id)

        assert retiring.world.named[MODEL] == {"champion": 2, "previous": 2}

    def test_an_alias_set_meanwhile_pauses_the_end(self, retiring: Retiring) -> None:
        """Nobody's name is taken away without their knowledge."""
        id = retiring.start().id
        retiring.settle(id)
        for _ in range(3):
            retiring.pass_time(id, days=7)
        retiring.world.named[MODEL]["frozen"] = 1

        assert retiring.pass_time(id, days=7) == ["take", "confirm", "pause"]
        assert retiring.record(id).blockers == ("alias frozen names digits/1",)


class TestConsumers:
    def test_an_unacknowledged_active_consumer_pauses_the_ramp(self, retiring: Retiring) -> None:
        """Who names the version and has not answered keeps it as it is."""
        retiring.call("billing")
        id = retiring.start().id
        retiring.settle(id)

        assert retiring.pass_time(id, days=7) == ["pause"]
        assert retiring.record(id).blockers == ("not acknowledged by billing",)
        retiring.service.acknowledge(id, "billing", by="ada", note="moved on Tuesday")
        assert retiring.settle(id) == ["take", "confirm"]

    def test_a_waiver_needs_a_reason(self, retiring: Retiring) -> None:
        """To go on without an answer is a decision that is recorded."""
        from mlcycle_nb.errors import InvalidInput

        retiring.call("billing")
        id = retiring.start().id
        with pytest.raises(InvalidInput, match="waiver needs a reason"):
            retiring.service.waive(id, "billing", reason=" ")
        record = retiring.service.waive(id, "billing", reason="the team is dissolved")

        assert record.consumers[0].state == "waived"
        assert record.consumers[0].said == "the team is dissolved"

    def test_who_calls_only_the_default_address_blocks_nothing(self, retiring: Retiring) -> None:
        """They follow the service and are shown, not asked."""
        retiring.call("web", pinned=0)
        id = retiring.start().id
        retiring.settle(id)

        assert retiring.pass_time(id, days=7) == ["take", "confirm"]
        assert [one.name for one in retiring.service.status(id).consumers] == ["web"]

    def test_who_has_not_called_for_thirty_days_blocks_nothing(self, retiring: Retiring) -> None:
        """An old caller is no active one."""
        retiring.call("forgotten")
        retiring.clock.advance(timedelta(days=31))
        id = retiring.start().id
        retiring.settle(id)

        assert retiring.pass_time(id, days=7) == ["take", "confirm"]

    def test_a_caller_found_on_the_way_pauses_too(self, retiring: Retiring) -> None:
        """Evidence counts until the end."""
        id = retiring.start().id
        retiring.settle(id)
        retiring.pass_time(id, days=7)
        retiring.call("night-batch")

        assert retiring.pass_time(id, days=7) == ["pause"]
        assert retiring.record(id).blockers == ("not acknowledged by night-batch",)

    def test_an_unknown_consumer_is_named_with_the_known(self, retiring: Retiring) -> None:
        """A slip of the pen acknowledges nobody."""
        from mlcycle_nb.errors import NotFound

        retiring.call("billing")
        id = retiring.start().id
        with pytest.raises(NotFound, match="no such consumer") as refused:
            retiring.service.acknowledge(id, "biling")

        assert "did you mean 'billing'" in str(refused.value)


class TestKnowledge:
    def test_empty_mandatory_fields_block_completion(self, retiring: Retiring) -> None:
        """After the last step everything waits for what only people know."""
        id = retiring.start().id
        retiring.settle(id)
        for _ in range(4):
            retiring.pass_time(id, days=7)

        assert retiring.record(id).phase == "handover"
        assert retiring.pass_time(id, weeks=5) == []
        retiring.service.note(id, "migration", "call version 2")
        assert retiring.settle(id) == []
        assert "contact" in retiring.service.status(id).waiting_for
        retiring.service.note(id, "contact", "the digits team")
        assert retiring.settle(id) == ["begin_archive", "write_archive", "verify_archive", "entomb"]

    def test_the_document_is_made_from_the_record(self, retiring: Retiring) -> None:
        """Reason, replacement, lineage and callers are there; typed text cannot become structure."""
        retiring.call("billing")
        id = retiring.start(reason="<script>alert(1)</script> # heading").id
        text = retiring.service.handover(id)

        assert "**(to be filled in)**" in text
        assert "- run: run-1" in text
        assert "billing: 15 requests" in text
        assert "<script>" not in text


class TestMessages:
    def test_each_change_is_told_once(self, retiring: Retiring) -> None:
        """Planned, started, gone, completed: one message each, with a key that stays."""
        id = retiring.start(notify=["log"]).id
        retiring.finish(id)
        retiring.settle(id)
        sent = [arguments for name, arguments in retiring.world.writes if name == "send"]

        assert [message["about"] for _, _, message in sent] == [  # type: ignore[index]
            "retirement planned",
            "retirement started",
            "retirement gone",
            "retirement completed",
        ]
        assert len({key for _, key, _ in sent}) == 4

    def test_a_channel_that_fails_holds_up_nothing(self, retiring: Retiring) -> None:
        """Five attempts, then it is given up and shown; traffic went on meanwhile."""
        retiring.world.delivers = False
        id = retiring.start(notify=["log"]).id
        retiring.settle(id)
        retiring.pass_time(id, days=7)

        assert retiring.record(id).share == 7500
        assert all(notice.attempts == 5 for notice in retiring.record(id).notices)

    def test_an_unknown_channel_is_refused_when_planning(self, retiring: Retiring) -> None:
        """Not weeks later."""
        from mlcycle_nb.errors import UnknownPlugin

        with pytest.raises(UnknownPlugin):
            retiring.plan(notify=["pigeon"])
