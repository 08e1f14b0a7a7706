"""The nouns of development: experiments, runs, model versions, and what the workspace stores of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Literal, NamedTuple

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.store import Record

RunStatus = Literal["running", "finished", "failed", "killed"]

PACKAGE_TAG = "mlcycle.package"
"""Tag of a registered version that carries the digest of its package."""

PARENT_TAG = "parent"
"""Tag of a version that was made from another one, such as by fine-tuning: that one's reference."""


_ENDINGS: dict[str, RunStatus] = {"finished": "finished", "failed": "failed", "killed": "killed"}


def ending_status(status: str) -> RunStatus:
    """Return `status` as one that a run can end with."""
    if status not in _ENDINGS:
        raise InvalidInput(f"a run cannot end {status!r}", value=status, remedy="use finished, failed or killed")
    return _ENDINGS[status]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelExperiment:
    """A named collection of runs."""

    id: str
    name: str
    artifact_location: str

    def __repr__(self) -> str:
        return f"experiment {self.name}"


class Reproducible(NamedTuple):
    """Whether a run can be made again, and in plain words why not."""

    yes: bool
    reasons: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.yes

    def __repr__(self) -> str:
        return "reproducible: yes" if self.yes else f"reproducible: no, {'; '.join(self.reasons)}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Run:
    """One run as MLflow holds it now."""

    id: str
    name: str
    experiment: str
    status: RunStatus
    started_at: datetime
    ended_at: datetime | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)  # the last value of each
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def reproducible(self) -> Reproducible:
        """Whether the notebook as it stood would give the run again, and if not, why."""
        reasons = tuple(filter(None, self.tags.get("mlcycle.not_reproducible", "").split("\n")))
        return Reproducible(self.tags.get("mlcycle.reproducible") == "true", reasons)

    @property
    def duration_seconds(self) -> float | None:
        """Seconds from start to end; None while it runs."""
        return None if self.ended_at is None else (self.ended_at - self.started_at).total_seconds()

    def __repr__(self) -> str:
        shown = " ".join(f"{name}={value:.4g}" for name, value in sorted(self.metrics.items()))
        return f"run {self.name} ({self.id[:8]}): {self.status} {shown}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    """One value of one metric."""

    key: str
    value: float
    step: int
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ModelVersion:
    """One registered version of a model, with the aliases it has now."""

    name: str
    version: int
    package_digest: str
    run_id: str | None
    created_at: datetime
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """``digits/7``."""
        return f"{self.name}/{self.version}"

    def __repr__(self) -> str:
        called = f" ({', '.join(self.aliases)})" if self.aliases else ""
        return f"{self.reference}{called}: package {self.package_digest[:19]}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "model": self.reference,
            "aliases": list(self.aliases),
            "package": self.package_digest,
            "run": self.run_id,
            "created_at": self.created_at.isoformat(),
            "tags": dict(self.tags),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredVersion(Record):
    """What the workspace stores of a registered version, so that it is known without asking MLflow."""

    KIND: ClassVar[str] = "model_version"

    model: str
    number: int
    package_digest: str
    run_id: str | None = None
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.model

    @property
    def refers_to(self) -> tuple[str, ...]:
        run = () if self.run_id is None else (run_subject(self.run_id),)
        parent = self.tags.get(PARENT_TAG)
        return run if parent is None else (*run, f"{RegisteredVersion.KIND}:{parent}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAlias(Record):
    """A movable name of a version, such as ``digits@champion``."""

    KIND: ClassVar[str] = "model_alias"

    model: str
    alias: str
    number: int

    @property
    def name(self) -> str:
        return self.model

    @property
    def refers_to(self) -> tuple[str, ...]:
        return (version_subject(self.model, self.number),)


def version_id(model: str, number: int) -> str:
    """Return the id under which a version is stored: its reference."""
    return f"{model}/{number}"


def alias_id(model: str, alias: str) -> str:
    """Return the id under which an alias is stored: its reference."""
    return f"{model}@{alias}"


def version_subject(model: str, number: int) -> str:
    """Return the subject by which records refer to a version."""
    return f"{RegisteredVersion.KIND}:{version_id(model, number)}"


def run_subject(run_id: str) -> str:
    """Return the subject by which records refer to a run."""
    return f"run:{run_id}"


def audit_subject(model: str, number: int) -> str:
    """Return the subject of audit notes about a version."""
    return f"model:{model}/{number}"
