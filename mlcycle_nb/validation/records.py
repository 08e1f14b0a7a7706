"""The nouns of validation: a verdict and the result of each of its gates, as they are stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from mlcycle_nb.development.records import version_subject
from mlcycle_nb.outcomes import Outcome, overall
from mlcycle_nb.store import Record
from mlcycle_nb.validation.gates import Gate

RUNNING, FINISHED = "running", "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """What one gate said. Numbers that could not be had are None, never 0."""

    check: str
    family: str
    outcome: Outcome
    required: bool
    reason: str
    bound: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: str = ""
    next_step: str = ""
    seconds: float = 0.0
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Digests of everything a verdict rests on; when one of them changes the verdict is void."""

    package: str
    data: str
    gates: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation(Record):
    """One validation of one model version."""

    KIND: ClassVar[str] = "validation"

    model: str
    model_version: int
    evidence: Evidence
    gates: tuple[Gate, ...]
    gates_source: str = ""
    environments: tuple[str, ...] = ()
    rows: int = 0
    seed: int = 0
    outcome: Outcome = Outcome.INCONCLUSIVE
    results: tuple[GateResult, ...] = ()
    problem: str = ""
    finished_at: datetime | None = None

    @property
    def name(self) -> str:
        """The model's name, to look verdicts up by."""
        return self.model

    @property
    def refers_to(self) -> tuple[str, ...]:
        return (version_subject(self.model, self.model_version),)

    @property
    def reference(self) -> str:
        """The version judged: ``digits/7``."""
        return f"{self.model}/{self.model_version}"

    @property
    def finished(self) -> bool:
        """Whether the verdict is in."""
        return self.phase == FINISHED

    @property
    def passed(self) -> bool:
        """Whether every required gate passed; the only thing that opens a door."""
        return self.finished and self.outcome is Outcome.PASSED

    def counts(self) -> dict[Outcome, int]:
        """Return how many gates had each outcome; they add up to the number of gates."""
        return {outcome: sum(result.outcome is outcome for result in self.results) for outcome in Outcome}


def verdict_of(gates: tuple[Gate, ...], results: tuple[GateResult, ...]) -> Outcome:
    """Return the verdict: the worst outcome of the required gates, and never passed when one has no result."""
    required = [result.outcome for result in results if result.required]
    if len(results) != len(gates) or not required:
        return Outcome.ERROR
    return overall(required)
