"""What may not be planned, and the one line that says why."""

from __future__ import annotations

import pytest

from mlcycle_nb.errors import InvalidInput, MLCycleError, NotFound, Refused
from mlcycle_nb.packages import PackageStore, build_package
from mlcycle_nb.retirement import schedule
from mlcycle_nb.retirement.records import Retirement
from tests.unit.retirement.conftest import ENVIRONMENT, MODEL, Retiring


class TestDurationsAndSteps:
    @pytest.mark.parametrize(
        ("over", "says"),
        [
            ("0s", "out of range"),
            ("-3w", "not a number and a unit"),
            ("1e99w", "not a number and a unit"),
            ("3 fortnights", "not a number and a unit"),
            ("999999w", "out of range"),
            ("500ms", "out of range"),
            ("", "not a number and a unit"),
            ("nan", "not a number and a unit"),
        ],
    )
    def test_impossible_lengths_are_refused(self, retiring: Retiring, over: str, says: str) -> None:
        """Range and grammar, and nothing is stored."""
        with pytest.raises(InvalidInput, match=says):
            retiring.plan(over=over)

        assert retiring.context.store.find(Retirement) == []

    @pytest.mark.parametrize(
        ("steps", "says"),
        [
            ("75,50,25", "end at 0"),
            ("25,50,0", "strictly fall"),
            ("50,50,0", "strictly fall"),
            ("100,0", "from 0 to below 100"),
            ("nan,0", "from 0 to below 100"),
            ("-5,0", "from 0 to below 100"),
            ("33.333,0", "two decimals"),
            ("", "from 0 to below 100"),
            ("a,0", "from 0 to below 100"),
            (",".join(str(n) for n in range(99, -1, -1)), "1 to 50"),
        ],
    )
    def test_impossible_steps_are_refused(self, retiring: Retiring, steps: str, says: str) -> None:
        """Shares fall strictly and end at nothing."""
        with pytest.raises(InvalidInput, match=says):
            retiring.plan(steps=steps)

    def test_two_decimals_are_exact(self) -> None:
        """Shares are integers out of 10,000."""
        assert schedule.parse_steps("66.67, 33.33, 0") == (6667, 3333, 0)
        assert schedule.parse_steps([50, 0]) == (5000, 0)


class TestReplacement:
    def test_the_stable_version_needs_one(self, retiring: Retiring) -> None:
        """Default traffic would end with it."""
        retiring.world.stables[ENVIRONMENT, MODEL] = 1
        with pytest.raises(Refused, match="it is the stable version of production/digits"):
            retiring.plan(replacement=None)

    def test_a_version_with_an_alias_needs_one(self, retiring: Retiring) -> None:
        """Somebody finds it by that name."""
        retiring.world.named[MODEL]["previous"] = 1
        with pytest.raises(Refused, match="alias previous names it"):
            retiring.plan(replacement=None)

    def test_without_either_it_may_end_without_one(self, retiring: Retiring) -> None:
        """Told, then 410 without a successor."""
        id = retiring.start(replacement=None).id
        retiring.settle(id)
        retiring.pass_time(id, days=28)
        address = retiring.world.declared[ENVIRONMENT, MODEL, 1]

        assert address.gone
        assert address.successor is None
        assert len(retiring.record(id).steps) == 2

    @pytest.mark.parametrize(
        ("replacement", "says"),
        [
            ("digits/1", "cannot replace itself"),
            ("other/2", "must be a version of digits"),
            ("digits", "which version"),
            ("digits@nobody", "no such alias"),
        ],
    )
    def test_impossible_replacements_are_refused(self, retiring: Retiring, replacement: str, says: str) -> None:
        """Named before anything is stored."""
        with pytest.raises(InvalidInput, match=says):
            retiring.plan(replacement=replacement)

    def test_an_unknown_version_is_not_found(self, retiring: Retiring) -> None:
        """The registry says what exists."""
        with pytest.raises(NotFound):
            retiring.plan(replacement="digits/9")

    def test_an_unhealthy_one_is_refused_with_the_next_step(self, retiring: Retiring) -> None:
        """It has to answer before it takes over."""
        retiring.world.replicas[ENVIRONMENT, MODEL, 2] = 0
        with pytest.raises(Refused, match=r"no healthy replica .*%deploy digits/2 --env production"):
            retiring.plan()

    def test_one_that_became_unhealthy_is_refused_at_the_start(self, retiring: Retiring) -> None:
        """A plan is not proof."""
        plan = retiring.plan()
        retiring.world.replicas[ENVIRONMENT, MODEL, 2] = 0
        with pytest.raises(Refused, match="no healthy replica"):
            retiring.service.execute_retirement(plan.id)

    def test_one_that_takes_other_inputs_is_refused(self, retiring: Retiring) -> None:
        """The callers' requests would fail at its door."""
        import numpy as np
        from sklearn.linear_model import LogisticRegression

        rows = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
        store = PackageStore(retiring.context.folder("packages"))
        wider = build_package(LogisticRegression().fit(rows, (rows[:, 0] > 0).astype(int)), example=rows, out=store)
        retiring.world.digests[MODEL, 2] = wider.digest
        with pytest.raises(Refused, match=r"cannot answer digits/1's callers: it takes"):
            retiring.plan()

    def test_one_that_retires_itself_is_refused(self, retiring: Retiring) -> None:
        """Callers are not sent from one end to the next."""
        retiring.world.digests[MODEL, 3] = retiring.packages[1].digest
        retiring.world.replicas[ENVIRONMENT, MODEL, 3] = 1
        retiring.world.stables[ENVIRONMENT, MODEL] = 3
        retiring.world.named.clear()
        retiring.service.plan_retirement("digits/2", replacement="digits/3", reason="old")
        with pytest.raises(Refused, match="digits/2 is being retired itself"):
            retiring.plan()

    def test_one_that_replaces_another_cannot_be_retired(self, retiring: Retiring) -> None:
        """First the one it stands in for."""
        retiring.start()
        retiring.world.digests[MODEL, 3] = retiring.packages[1].digest
        retiring.world.replicas[ENVIRONMENT, MODEL, 3] = 1
        with pytest.raises(Refused, match="digits/2 replaces digits/1"):
            retiring.service.plan_retirement("digits/2", replacement="digits/3", reason="old")


class TestWords:
    def test_a_reason_is_needed(self, retiring: Retiring) -> None:
        """For everybody who reads it later."""
        with pytest.raises(InvalidInput, match="needs a reason"):
            retiring.plan(reason="  ")

    def test_an_unknown_environment_is_named_with_the_known(self, retiring: Retiring) -> None:
        """With the nearest one."""
        with pytest.raises(InvalidInput, match="did you mean 'production'"):
            retiring.service.plan_retirement("digits/1", environment="produktion", reason="x")

    def test_finding_by_version_alias_and_id(self, retiring: Retiring) -> None:
        """All three name the same retirement."""
        retiring.world.named[MODEL]["old"] = 1
        id = retiring.plan().id

        assert retiring.service.find("digits/1").id == id
        assert retiring.service.find("digits@old").id == id
        assert retiring.service.find(id).id == id
        with pytest.raises(NotFound, match="%retire plan digits/2"):
            retiring.service.find("digits/2")

    def test_a_version_that_retires_in_two_places_asks_where(self, retiring: Retiring) -> None:
        """Neither is guessed."""
        retiring.plan()
        retiring.world.replicas["staging", MODEL, 1] = retiring.world.replicas["staging", MODEL, 2] = 1
        retiring.service.plan_retirement("digits/1", environment="staging", replacement="digits/2", reason="x")
        with pytest.raises(InvalidInput, match="--env production or staging"):
            retiring.service.find("digits/1")

    @pytest.mark.parametrize("field", ["migratoin", "", "reason"])
    def test_unknown_notes_are_refused(self, retiring: Retiring, field: str) -> None:
        """The fields are few and fixed."""
        id = retiring.plan().id
        with pytest.raises(MLCycleError, match="no such field"):
            retiring.service.note(id, field, "text")

    def test_every_change_is_in_the_audit_trail(self, retiring: Retiring) -> None:
        """And the trail verifies."""
        from mlcycle_nb.store.audit import events, verify

        record = retiring.finish(retiring.start().id)
        names = [entry["event"] for entry in events(retiring.context.store, subject=f"retirement:{record.id}")]

        assert names[:3] == ["retirement.planned", "retirement.started", "retirement.step.announce"]
        assert names.count("retirement.step.ramp") == 4
        assert names[-2:] == ["retirement.deleted", "retirement.completed"]
        assert verify(retiring.context.store).intact
