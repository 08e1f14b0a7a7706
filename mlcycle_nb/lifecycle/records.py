"""The nouns of the life cycle: the lifecycle, its transitions, what each gate showed, approvals."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from mlcycle_nb.development.records import version_subject
from mlcycle_nb.lifecycle.stages import FOLLOWS, Stage
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.store import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReading:
    """What one gate showed when it was looked at. Only ``passed`` opens it."""

    gate: str
    outcome: Outcome
    value: str  # what was found
    problem: str = ""
    remedy: str = ""
    evidence: dict[str, str] = field(default_factory=dict)  # ids and digests it rests on

    @property
    def passed(self) -> bool:
        """Whether it is open."""
        return self.outcome is Outcome.PASSED

    def __str__(self) -> str:
        told = f"gate {self.gate} is {self.outcome.value} ({self.value})"
        return f"{told}: {self.problem}" if self.problem else told


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One step from stage to stage."""

    time: datetime
    actor: str
    source: Stage
    target: Stage
    cycle: int
    model_version: int | None
    gates: tuple[GateReading, ...] = ()
    forced: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifecycle(Record):
    """The life of one model in one environment; its phase is the stage it is in."""

    KIND: ClassVar[str] = "lifecycle"

    model: str
    environment: str
    owner: str
    purpose: str = ""
    cycle: int = 1
    model_version: int | None = None  # the version this cycle is about, once training has ended
    package_digest: str = ""
    earlier_versions: tuple[int, ...] = ()  # of earlier cycles
    transitions: tuple[Transition, ...] = ()

    @property
    def name(self) -> str:
        return self.model

    @property
    def refers_to(self) -> tuple[str, ...]:
        present = () if self.model_version is None else (self.model_version,)
        return tuple(version_subject(self.model, number) for number in (*self.earlier_versions, *present))

    @property
    def stage(self) -> Stage:
        """The stage it is in."""
        return Stage(self.phase)

    @property
    def reference(self) -> str:
        """The version that this cycle is about, such as ``digits/7``; the model's name before there is one."""
        return self.model if self.model_version is None else f"{self.model}/{self.model_version}"

    @property
    def next_stages(self) -> tuple[Stage, ...]:
        """The stages that may follow."""
        return FOLLOWS[self.stage]


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval(Record):
    """Somebody's word that a version may go to an environment: phases given, withdrawn.

    It is bound to the digests of the package and of the verdict that were there; when one of them is another now,
    it counts for nothing.
    """

    KIND: ClassVar[str] = "approval"

    model: str
    model_version: int
    environment: str
    package_digest: str
    verdict: str  # id of the validation
    verdict_digest: str
    approver: str
    reason: str = ""
    single_user: bool = False  # given by somebody who also made the version, in a workspace that allows it

    @property
    def name(self) -> str:
        return self.model

    @property
    def refers_to(self) -> tuple[str, ...]:
        return (version_subject(self.model, self.model_version),) if self.phase == "given" else ()

    @property
    def reference(self) -> str:
        """``digits/7``."""
        return f"{self.model}/{self.model_version}"
