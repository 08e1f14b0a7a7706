"""Whatever is done in whatever order, no lifecycle passes a closed gate without a recorded force."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mlcycle_nb.context import open_context
from mlcycle_nb.errors import InvalidInput, MLCycleError, NotFound, Refused
from mlcycle_nb.lifecycle import stages
from mlcycle_nb.lifecycle.records import Lifecycle, Transition
from mlcycle_nb.lifecycle.stages import FOLLOWS, NEVER_FORCED, Stage
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.settings import load_settings
from mlcycle_nb.store.audit import events, verify
from mlcycle_nb.testing import FakeClock
from mlcycle_nb.testing.lifecycle import ALL_GATES, ScriptedEvidence, scripted_manager


class LifecycleMachine(RuleBasedStateMachine):
    """Gates open and close, versions appear, and somebody asks for steps, with and without force."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.keys = os.environ.get("MLCYCLE_KEYS")
        os.environ["MLCYCLE_KEYS"] = str(self.folder / "keys")
        self.context = open_context(self.folder / ".mlcycle", load_settings(environ={}), clock=FakeClock())
        self.evidence = ScriptedEvidence()
        self.service = scripted_manager(self.context, self.evidence)
        self.service.create_model_lifecycle("digits")

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        assert verify(self.context.store).intact
        self.context.store.close()
        shutil.rmtree(self.folder)
        if self.keys is None:
            del os.environ["MLCYCLE_KEYS"]
        else:
            os.environ["MLCYCLE_KEYS"] = self.keys

    @rule(gate=st.sampled_from(ALL_GATES), outcome=st.sampled_from(Outcome))
    def set_gate(self, gate: str, outcome: Outcome) -> None:
        self.evidence.outcomes[gate] = outcome

    @rule()
    def open_all(self) -> None:
        self.evidence.open()

    @rule()
    def register(self) -> None:
        self.evidence.newest += 1

    @rule(
        stage=st.one_of(st.none(), st.sampled_from(Stage)),
        version=st.one_of(st.none(), st.integers(1, 3)),
        force=st.booleans(),
        reason=st.sampled_from(["", "the fair is tomorrow"]),
    )
    def advance(self, stage: Stage | None, version: int | None, force: bool, reason: str) -> None:
        before = self.record
        try:
            self.service.progress_to_stage("digits", stage, version=version, force=force, reason=reason)
        except (Refused, NotFound, InvalidInput):
            assert self.record == before, "a refused step changed something"

    @rule()
    def walk(self) -> None:
        """Take the next step, so that late stages are reached often."""
        try:
            self.service.progress_to_stage("digits")
        except MLCycleError:
            return

    @property
    def record(self) -> Lifecycle:
        return self.context.store.get(Lifecycle, "digits")

    @invariant()
    def no_closed_gate_was_passed_in_silence(self) -> None:
        if not hasattr(self, "context"):
            return
        forced = [e for e in events(self.context.store, subject="lifecycle:digits") if e["event"] == "lifecycle.forced"]
        steps = self.record.transitions
        for step in steps:
            closed = [reading.gate for reading in step.gates if reading.outcome is not Outcome.PASSED]
            assert step.forced == bool(closed)
            assert not closed or step.reason.strip()
            assert not NEVER_FORCED & set(closed)
            assert {reading.gate for reading in step.gates} == set(stages.GATES[step.target])
        assert len(forced) == sum(step.forced for step in steps)

    @invariant()
    def the_way_here_is_a_way_in_the_graph(self) -> None:
        if not hasattr(self, "context"):
            return
        record = self.record
        stage, cycle = Stage.DEVELOPMENT, 1
        for step in record.transitions:
            assert step.source is stage
            assert step.target in FOLLOWS[stage]
            cycle += _begins_a_cycle(step)
            assert step.cycle == cycle
            stage = step.target
        assert record.stage is stage
        assert record.cycle == cycle
        if stage in (Stage.VALIDATION, Stage.DEPLOYMENT, Stage.MONITORING, Stage.RETIREMENT):
            assert record.model_version is not None


def _begins_a_cycle(step: Transition) -> bool:
    return step.target is Stage.TRAINING and step.source is not Stage.DEVELOPMENT


TestLifecycleMachine = pytest.mark.timeout(300)(LifecycleMachine.TestCase)
TestLifecycleMachine.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
