"""Gates of the life cycle that a test opens and closes by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mlcycle_nb.context import Context
from mlcycle_nb.development.records import ModelVersion
from mlcycle_nb.errors import NotFound
from mlcycle_nb.lifecycle import stages
from mlcycle_nb.lifecycle.records import GateReading, Lifecycle
from mlcycle_nb.lifecycle.service import ModelLifecycleManager
from mlcycle_nb.outcomes import Outcome

ALL_GATES = tuple(dict.fromkeys(gate for gates in stages.GATES.values() for gate in gates))
_START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class ScriptedEvidence:
    """Gates as a test sets them; all closed at first."""

    newest: int = 0
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    approvals: bool = True

    def candidate(self, lifecycle: Lifecycle, wanted: int | None) -> ModelVersion:
        number = wanted or self.newest
        if not 1 <= number <= self.newest or (wanted is None and number in lifecycle.earlier_versions):
            raise NotFound(f"no version of {lifecycle.model} has been registered", remedy="train one")
        return ModelVersion(
            name=lifecycle.model, version=number, package_digest=f"sha256:{number}", run_id=None, created_at=_START
        )

    def gates(self, target: stages.Stage, lifecycle: Lifecycle) -> tuple[str, ...]:
        return tuple(g for g in stages.GATES[target] if g != stages.APPROVAL or self.approvals)

    def read(self, gate: str, lifecycle: Lifecycle, requester: str) -> GateReading:
        outcome = self.outcomes.get(gate, Outcome.INCONCLUSIVE)
        problem = "" if outcome is Outcome.PASSED else f"{gate} was not shown"
        return GateReading(gate=gate, outcome=outcome, value=outcome.value, problem=problem, remedy=f"show {gate}")

    def open(self, *gates: str) -> None:
        """Open these gates, or all."""
        self.outcomes |= dict.fromkeys(gates or ALL_GATES, Outcome.PASSED)


def scripted_manager(context: Context, evidence: ScriptedEvidence) -> ModelLifecycleManager:
    """Return a lifecycle service whose gates are `evidence`, without the other stages."""
    absent: Any = None
    nobody: Any = _NoVersions()
    return ModelLifecycleManager(context, nobody, absent, absent, absent, absent, absent, evidence=evidence)


class _NoVersions:
    def get_version(self, ref: str) -> ModelVersion:
        raise NotFound("there is no such version", value=ref)
