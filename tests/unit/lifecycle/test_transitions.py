"""Stages follow one another only in order, past their gates, or by a force that is recorded."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.errors import Conflict, InvalidInput, InvalidName, NotFound, Refused
from mlcycle_nb.lifecycle import stages
from mlcycle_nb.lifecycle.records import Lifecycle
from mlcycle_nb.lifecycle.service import ModelLifecycleManager
from mlcycle_nb.lifecycle.stages import FOLLOWS, NEVER_FORCED, Stage
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.store.audit import verify

ILLEGAL = [(a, b) for a, b in product(Stage, Stage) if b not in FOLLOWS[a] and a is not b]
LEGAL = [(a, b) for a, b in product(Stage, Stage) if b in FOLLOWS[a]]


def put_in(lifecycles: ModelLifecycleManager, stage: Stage) -> None:
    """Store a lifecycle that is in `stage`, with version 1 once training is over."""
    lifecycles.create_model_lifecycle("digits")
    store = lifecycles.context.store
    number = None if stage in (Stage.DEVELOPMENT, Stage.TRAINING) else 1
    with store.transaction(actor="tester") as transaction:
        there = replace(store.get(Lifecycle, "digits"), phase=stage.value, model_version=number)
        transaction.update(there, event="test.placed")


class TestOrder:
    @pytest.mark.parametrize(("source", "target"), ILLEGAL)
    @pytest.mark.parametrize("force", [False, True])
    def test_a_step_out_of_order_is_refused(
        self, lifecycles: ModelLifecycleManager, evidence: Any, source: Stage, target: Stage, force: bool
    ) -> None:
        """Even with every gate open, and even by force."""
        evidence.open()
        evidence.newest = 1
        put_in(lifecycles, source)
        with pytest.raises(Refused):
            lifecycles.progress_to_stage("digits", target, force=force, reason="because")

        assert lifecycles.get_lifecycle_status("digits").stage is source
        assert lifecycles.history("digits").events[-1]["event"] == "lifecycle.refused"

    @pytest.mark.parametrize(("source", "target"), LEGAL)
    def test_a_step_in_order_past_open_gates_is_taken(
        self, lifecycles: ModelLifecycleManager, evidence: Any, source: Stage, target: Stage
    ) -> None:
        evidence.open()
        evidence.newest = 1
        put_in(lifecycles, source)
        status = lifecycles.progress_to_stage("digits", target)

        assert status.stage is target
        assert not status.lifecycle.transitions[-1].forced
        assert verify(lifecycles.context.store).intact

    def test_the_stage_it_is_in_changes_nothing(self, lifecycles: ModelLifecycleManager) -> None:
        before = lifecycles.create_model_lifecycle("digits").lifecycle
        assert lifecycles.progress_to_stage("digits", "development").lifecycle == before

    def test_the_next_stage_needs_no_name(self, lifecycles: ModelLifecycleManager, evidence: Any) -> None:
        evidence.open()
        evidence.newest = 1
        lifecycles.create_model_lifecycle("digits")
        seen = [lifecycles.progress_to_stage("digits").stage.value for _ in range(4)]
        assert seen == ["training", "validation", "deployment", "monitoring"]
        with pytest.raises(InvalidInput, match=r"name where it goes.*retirement, or training"):
            lifecycles.progress_to_stage("digits")

    def test_a_new_cycle_begins_with_training(self, lifecycles: ModelLifecycleManager, evidence: Any) -> None:
        evidence.open()
        evidence.newest = 1
        put_in(lifecycles, Stage.MONITORING)
        begun = lifecycles.progress_to_stage("digits", "training").lifecycle
        assert (begun.cycle, begun.model_version, begun.earlier_versions) == (2, None, (1,))
        with pytest.raises(NotFound, match="no version"):
            lifecycles.progress_to_stage("digits", "validation")
        evidence.newest = 2
        assert lifecycles.progress_to_stage("digits", "validation").lifecycle.model_version == 2

    def test_an_unknown_stage_gets_a_suggestion(self, lifecycles: ModelLifecycleManager) -> None:
        lifecycles.create_model_lifecycle("digits")
        with pytest.raises(InvalidInput, match="did you mean 'training'"):
            lifecycles.progress_to_stage("digits", "trainning")


class TestGates:
    @pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.PASSED])
    @pytest.mark.parametrize(("source", "target", "gate"), [(a, b, g) for a, b in LEGAL for g in stages.GATES[b]])
    def test_only_passed_opens_a_gate(
        self,
        lifecycles: ModelLifecycleManager,
        evidence: Any,
        source: Stage,
        target: Stage,
        gate: str,
        outcome: Outcome,
    ) -> None:
        """Each gate by itself keeps the stage shut, and is named with what it found and what to do."""
        evidence.open()
        evidence.newest = 1
        evidence.outcomes[gate] = outcome
        put_in(lifecycles, source)
        with pytest.raises(Refused, match=f"gate {gate} is {outcome.value} .*{gate} was not shown.* - show {gate}"):
            lifecycles.progress_to_stage("digits", target)

        assert lifecycles.get_lifecycle_status("digits").stage is source

    @pytest.mark.parametrize(
        ("source", "target", "gate"), [(a, b, g) for a, b in LEGAL for g in stages.GATES[b] if g not in NEVER_FORCED]
    )
    def test_a_force_is_recorded_for_good(
        self, lifecycles: ModelLifecycleManager, evidence: Any, source: Stage, target: Stage, gate: str
    ) -> None:
        evidence.open()
        evidence.newest = 1
        evidence.outcomes[gate] = Outcome.FAILED
        put_in(lifecycles, source)
        status = lifecycles.progress_to_stage("digits", target, force=True, reason="the fair is tomorrow")
        step = status.lifecycle.transitions[-1]
        event = lifecycles.history("digits").events[-1]

        assert status.stage is target
        assert (step.forced, step.reason) == (True, "the fair is tomorrow")
        assert [r.gate for r in step.gates if not r.passed] == [gate]
        assert (event["event"], event["reason"]) == ("lifecycle.forced", "the fair is tomorrow")
        assert event["detail"]["gates"][gate] == "failed"
        assert "FORCED" in repr(status) or "FORCED" in status.to_html()

    @pytest.mark.parametrize("gate", sorted(NEVER_FORCED))
    def test_some_gates_no_reason_opens(self, lifecycles: ModelLifecycleManager, evidence: Any, gate: str) -> None:
        evidence.open()
        evidence.newest = 1
        evidence.outcomes[gate] = Outcome.ERROR
        put_in(lifecycles, Stage.TRAINING)
        with pytest.raises(Refused, match="cannot be forced"):
            lifecycles.progress_to_stage("digits", "validation", force=True, reason="please")

    @pytest.mark.parametrize("reason", ["", "   "])
    def test_a_force_needs_a_reason(self, lifecycles: ModelLifecycleManager, evidence: Any, reason: str) -> None:
        evidence.newest = 1
        put_in(lifecycles, Stage.VALIDATION)
        with pytest.raises(InvalidInput, match="needs a reason"):
            lifecycles.progress_to_stage("digits", "deployment", force=True, reason=reason)

    def test_a_needless_force_is_none(self, lifecycles: ModelLifecycleManager, evidence: Any) -> None:
        evidence.open()
        put_in(lifecycles, Stage.VALIDATION)
        step = lifecycles.progress_to_stage("digits", "deployment", force=True, reason="x").lifecycle.transitions[-1]
        assert not step.forced

    def test_without_a_version_nothing_is_validated(self, lifecycles: ModelLifecycleManager, evidence: Any) -> None:
        evidence.open()
        put_in(lifecycles, Stage.TRAINING)
        for force in (False, True):
            with pytest.raises(NotFound, match="no version of digits"):
                lifecycles.progress_to_stage("digits", "validation", force=force, reason="x")

    def test_a_version_is_chosen_only_before_validation(self, lifecycles: ModelLifecycleManager, evidence: Any) -> None:
        evidence.open()
        evidence.newest = 3
        put_in(lifecycles, Stage.TRAINING)
        with pytest.raises(NotFound):
            lifecycles.progress_to_stage("digits", "validation", version=9)
        assert lifecycles.progress_to_stage("digits", "validation", version=2).lifecycle.model_version == 2
        with pytest.raises(InvalidInput, match="on the way to validation only"):
            lifecycles.progress_to_stage("digits", "deployment", version=3)

    def test_all_closed_gates_are_told_at_once(self, lifecycles: ModelLifecycleManager, evidence: Any) -> None:
        put_in(lifecycles, Stage.VALIDATION)
        with pytest.raises(Refused, match=r"package .*verdict .*approval .*show package; then show verdict"):
            lifecycles.progress_to_stage("digits", "deployment")


class TestCreation:
    def test_creating_twice_attaches(self, lifecycles: ModelLifecycleManager) -> None:
        first = lifecycles.create_model_lifecycle("digits", purpose="reads digits")
        assert lifecycles.create_model_lifecycle("digits").lifecycle == first.lifecycle

    def test_another_model_under_the_name_is_a_conflict(self, lifecycles: ModelLifecycleManager) -> None:
        lifecycles.create_model_lifecycle("digits")
        with pytest.raises(Conflict, match="is about digits in production"):
            lifecycles.create_model_lifecycle("digits", environment="staging")

    def test_an_unknown_environment_gets_a_suggestion(self, lifecycles: ModelLifecycleManager) -> None:
        with pytest.raises(InvalidInput, match="did you mean 'production'"):
            lifecycles.create_model_lifecycle("digits", environment="prodction")

    @pytest.mark.parametrize("name", ["", "../x", "Digits", "a" * 64, "di\u200bgits"])
    def test_names_follow_the_grammar(self, lifecycles: ModelLifecycleManager, name: str) -> None:
        with pytest.raises(InvalidName):
            lifecycles.create_model_lifecycle(name)

    def test_an_absent_one_is_named_with_what_there_is(self, lifecycles: ModelLifecycleManager) -> None:
        lifecycles.create_model_lifecycle("digits")
        with pytest.raises(NotFound, match="did you mean 'digits'"):
            lifecycles.get_lifecycle_status("digit")


def test_of_two_clients_one_moves_it(context: Context, lifecycles: ModelLifecycleManager, evidence: Any) -> None:
    """A step taken meanwhile by somebody else is a conflict, never a second step."""
    evidence.open()
    evidence.newest = 1
    put_in(lifecycles, Stage.VALIDATION)
    gates = evidence.gates

    def overtaken(*arguments: Any) -> Any:
        evidence.gates = gates
        lifecycles.progress_to_stage("digits", "deployment")
        return gates(*arguments)

    evidence.gates = overtaken
    with pytest.raises(Conflict, match="changed by somebody else"):
        lifecycles.progress_to_stage("digits", "training")
    assert [t.target for t in lifecycles.get_lifecycle_status("digits").lifecycle.transitions] == [Stage.DEPLOYMENT]


def test_the_panel_has_three_faces(lifecycles: ModelLifecycleManager, evidence: Any) -> None:
    from mlcycle_nb.lifecycle.panel import LifecyclePanel

    evidence.open()
    evidence.outcomes["verdict"] = Outcome.FAILED
    put_in(lifecycles, Stage.VALIDATION)
    panel = LifecyclePanel(lifecycles, "digits")
    html = panel.to_html()

    assert "[validation]" in repr(panel)
    assert "verdict was not shown - show verdict" in repr(panel)
    assert 'aria-current="step"' in html
    assert [action.label for action in panel.actions(panel.snapshot())] == ["to training"]
    panel.actions(panel.snapshot())[0].callback()
    assert lifecycles.get_lifecycle_status("digits").stage is Stage.TRAINING


def test_texts_of_users_are_inert(lifecycles: ModelLifecycleManager) -> None:
    status = lifecycles.create_model_lifecycle("digits", purpose="<script>alert(1)</script>")
    assert "<script>" not in status.to_html()
