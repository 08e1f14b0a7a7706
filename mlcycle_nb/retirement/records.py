"""The nouns of retirement: the plan with its steps, the consumers, the archive, and what was there before."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import ClassVar, Literal

from mlcycle_nb.development.records import version_subject
from mlcycle_nb.store import Record

WHOLE = 10_000
"""Shares are integers out of this many, as in the gateway's plan."""

PLANNED, RAMPING, PAUSED, HANDOVER, ARCHIVING, CLEARING = (
    "planned",
    "ramping",
    "paused",
    "handover",
    "archiving",
    "clearing",
)
CANCELLING, RESTORING = "cancelling", "restoring"
COMPLETED, CANCELLED, RESTORED = "completed", "cancelled", "restored"
ACTIVE_PHASES = (RAMPING, PAUSED, HANDOVER, ARCHIVING, CLEARING, CANCELLING, RESTORING)
ENDED_PHASES = (COMPLETED, CANCELLED, RESTORED)

NOTICE_ATTEMPTS = 5

StepKind = Literal["announce", "ramp", "gone"]
ConsumerState = Literal["open", "acknowledged", "waived"]
Disposition = Literal["delete", "keep", "refuse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What a version's own address answers; without ``planned`` it is the gateway's default for that version."""

    planned: bool = False
    split: tuple[tuple[int, int], ...] = ()  # (version, share of 10,000)
    headers: dict[str, str] = field(default_factory=dict)
    gone: bool = False
    successor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RampStep:
    """One change of the address, with the absolute time from which it may happen."""

    position: int
    kind: StepKind
    share: int  # of 10,000, what the retiring version keeps
    due_at: datetime
    taken_at: datetime | None = None
    confirmed_at: datetime | None = None
    split: tuple[tuple[int, int], ...] = ()  # what was asked of the gateway when it was taken


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerRecord:
    """Somebody who called the version, as the gateway saw it, and what they said about its end."""

    name: str
    requests: int
    pinned: int  # of these, to the version's own address
    first_seen: datetime
    last_seen: datetime
    last_pinned: datetime | None = None
    state: ConsumerState = "open"
    by: str = ""
    said: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One message about this retirement for one channel."""

    channel: str
    about: str  # planned, started, paused, gone, completed, cancelled, restored
    at: datetime
    text: str
    delivered_at: datetime | None = None
    attempts: int = 0
    detail: str = ""

    @property
    def pending(self) -> bool:
        """Whether it still has to be sent."""
        return self.delivered_at is None and self.attempts < NOTICE_ATTEMPTS


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveReceipt:
    """The archive as it was written: where, how large, and the SHA-256 of the whole file."""

    path: str  # below the workspace folder
    sha256: str
    size_bytes: int
    members: int
    written_at: datetime
    verified_at: datetime | None = None  # restored once, every member hashed again, golden batch answered
    golden_rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanupItem:
    """One thing that the version leaves behind, and what happens to it."""

    kind: str  # process, file, alias, route, record
    name: str
    size_bytes: int
    disposition: Disposition
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """The state that a cancelled retirement has to bring back."""

    address: Address
    aliases: dict[str, int]  # every alias of the model, and the version it named
    tags: dict[str, str]  # the version's tags
    running: bool
    warm_seconds: float | None = None  # it was about to end, and kept for this long


@dataclass(frozen=True, slots=True, kw_only=True)
class Retirement(Record):
    """The retirement of one model version in one environment."""

    KIND: ClassVar[str] = "retirement"

    environment: str
    model: str
    model_version: int
    package_digest: str
    replacement: str | None
    reason: str
    requested_by: str
    over_seconds: float
    grace_seconds: float
    steps: tuple[RampStep, ...] = ()
    consumers: tuple[ConsumerRecord, ...] = ()
    channels: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()
    moves_aliases: tuple[str, ...] = ()  # aliases of this version that go to the replacement
    before: Before | None = None
    blockers: tuple[str, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)  # knowledge transfer, filled in by people
    archive: ArchiveReceipt | None = None
    cleanup: tuple[CleanupItem, ...] = ()
    tombstone: str = ""  # below the workspace folder, while the package waits there for its deletion
    delete_at: datetime | None = None
    deleted_at: datetime | None = None
    certificate: str = ""  # below the workspace folder
    difference: tuple[str, ...] = ()  # what a cancel could not bring back; empty when it brought back all
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def name(self) -> str:
        """The model's name, to look retirements up by."""
        return self.model

    @property
    def active(self) -> bool:
        """Whether the supervisor has to look at it."""
        return self.phase in ACTIVE_PHASES or any(notice.pending for notice in self.notices)

    @property
    def lock_key(self) -> str | None:
        """One retirement of a version in an environment at a time."""
        return None if self.phase in ENDED_PHASES else self.service + f"/{self.model_version}"

    @property
    def refers_to(self) -> tuple[str, ...]:
        """A completed one too: its certificate speaks of the version and of what replaced it."""
        if self.phase in (CANCELLED, RESTORED):
            return ()
        numbers = {self.model_version, self.replacement_version or self.model_version}
        return tuple(version_subject(self.model, number) for number in sorted(numbers))

    @property
    def reference(self) -> str:
        """The version that retires: ``digits/1``."""
        return f"{self.model}/{self.model_version}"

    @property
    def service(self) -> str:
        """The service: ``production/digits``."""
        return f"{self.environment}/{self.model}"

    @property
    def replacement_version(self) -> int | None:
        """The version that takes over, when there is one."""
        return None if self.replacement is None else int(self.replacement.partition("/")[2])

    @property
    def share(self) -> int:
        """Share of 10,000 that the retiring version still has at its own address."""
        taken = [step.share for step in self.steps if step.taken_at is not None]
        return taken[-1] if taken else WHOLE

    @property
    def next_step(self) -> RampStep | None:
        """The first step that is not taken yet."""
        return next((step for step in self.steps if step.taken_at is None), None)

    @property
    def unconfirmed_step(self) -> RampStep | None:
        """The step that was taken and not yet seen in force."""
        return next((s for s in self.steps if s.taken_at is not None and s.confirmed_at is None), None)

    @property
    def gone_at(self) -> datetime | None:
        """When the address stops answering, by the plan in force."""
        return self.steps[-1].due_at if self.steps else None

    @property
    def grace(self) -> timedelta:
        """Time between tombstone and deletion."""
        return timedelta(seconds=self.grace_seconds)
