"""The status of a retirement: the record beside what the gateway counts now, and what everybody waits for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlcycle_nb.notebook.html import badge, heading, paragraph, table, text_table
from mlcycle_nb.retirement.consumers import unacknowledged
from mlcycle_nb.retirement.handover import missing_notes
from mlcycle_nb.retirement.records import (
    ARCHIVING,
    CLEARING,
    ENDED_PHASES,
    HANDOVER,
    PAUSED,
    PLANNED,
    CleanupItem,
    ConsumerRecord,
    Retirement,
)
from mlcycle_nb.store.record import jsonable

_STEPS = ("step", "keeps", "due", "taken", "in force")
_CONSUMERS = ("consumer", "requests", "of these pinned", "last call", "answer")
_CLEANUP = ("what", "name", "bytes", "then", "why")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetirementStatus:
    """One retirement as it is now.

    Attributes
    ----------
    record : Retirement
        The stored plan and progress.
    consumers : tuple of ConsumerRecord
        Callers with the newest counts, and what they answered.
    cleanup : tuple of CleanupItem
        What the clean-up would do now, or has done.
    error : str
        What the supervisor last failed at; empty when all is well.
    """

    record: Retirement
    consumers: tuple[ConsumerRecord, ...]
    cleanup: tuple[CleanupItem, ...]
    now: datetime
    error: str = ""

    @property
    def id(self) -> str:
        """The retirement's id."""
        return self.record.id

    @property
    def phase(self) -> str:
        """Where it stands."""
        return self.record.phase

    @property
    def waiting_for(self) -> str:
        """What has to happen next, in words; empty when it has ended."""
        record = self.record
        if record.phase == PAUSED:
            return "; ".join(record.blockers)
        if record.phase == PLANNED:
            return f"%retire execute {record.reference} --env {record.environment}"
        if record.phase == HANDOVER:
            return f"the knowledge transfer: {', '.join(missing_notes(record.notes))}"
        if record.phase == ARCHIVING:
            return self.error or "the archive's proof"
        if record.phase == CLEARING and record.delete_at is not None:
            return self.error or f"deletion, not before {record.delete_at:%Y-%m-%d %H:%M:%S}"
        if record.phase in ENDED_PHASES:
            return ""
        step = record.next_step
        late = unacknowledged(self.consumers, self.now)
        asked = f"; not acknowledged yet by {', '.join(late)}" if late else ""
        if record.unconfirmed_step is not None:
            return "the gateway, to answer as asked" + asked
        return f"{_name(step.kind, step.share)}, not before {step.due_at:%Y-%m-%d %H:%M:%S}{asked}" if step else ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        tree: dict[str, Any] = jsonable(self)
        tree["waiting_for"] = self.waiting_for
        return tree

    def __repr__(self) -> str:
        record = self.record
        lines = [
            f"retirement of {record.reference} in {record.environment}: {record.phase}",
            f"reason: {record.reason}",
        ]
        lines.append(
            f"replacement: {record.replacement or 'none'}; it keeps {record.share / 100:g} % of its own address"
        )
        if self.waiting_for:
            lines.append(f"waits for: {self.waiting_for}")
        if self.error and self.error not in self.waiting_for:
            lines.append(f"trouble: {self.error}")
        lines += ["", text_table(_STEPS, self._steps())]
        if self.consumers:
            lines += ["", text_table(_CONSUMERS, self._callers())]
        if self.cleanup:
            lines += ["", text_table(_CLEANUP, self._items())]
        if record.archive is not None:
            lines += ["", self._archive()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        record = self.record
        parts = [heading(f"retirement of {record.reference} in {record.environment}", record.phase)]
        parts.append(paragraph(f"{record.reason} - replacement: {record.replacement or 'none'}"))
        if self.waiting_for:
            parts.append(paragraph(f"waits for: {self.waiting_for}"))
        if self.error and self.error not in self.waiting_for:
            parts.append(paragraph(f"trouble: {self.error}"))
        parts.append(table(_STEPS, self._steps(), caption="traffic at its own address"))
        if self.consumers:
            rows = [(*row[:-1], badge(row[-1])) for row in self._callers()]
            parts.append(table(_CONSUMERS, rows, caption="who called it"))
        if self.cleanup:
            parts.append(table(_CLEANUP, self._items(), caption="clean-up"))
        if record.archive is not None:
            parts.append(paragraph(self._archive()))
        return "".join(parts)

    def _steps(self) -> list[tuple[str, ...]]:
        return [
            (_name(s.kind, s.share), f"{s.share / 100:g} %", _time(s.due_at), _time(s.taken_at), _time(s.confirmed_at))
            for s in self.record.steps
        ]

    def _callers(self) -> list[tuple[str, ...]]:
        return [
            (
                c.name,
                f"{c.requests:,}",
                f"{c.pinned:,}",
                _time(c.last_seen),
                c.state if c.pinned else "follows the service",
            )
            for c in self.consumers
        ]

    def _items(self) -> list[tuple[str, ...]]:
        return [(i.kind, i.name, f"{i.size_bytes:,}", i.disposition, i.why) for i in self.cleanup]

    def _archive(self) -> str:
        receipt = self.record.archive
        assert receipt is not None  # the callers ask
        proof = (
            "not yet proven" if receipt.verified_at is None else f"restored, {receipt.golden_rows} golden rows answered"
        )
        return f"archive {receipt.path}: {receipt.members} files, {receipt.size_bytes:,} bytes, {proof}"


def _name(kind: str, share: int) -> str:
    return {"announce": "announce", "gone": "answer 410"}.get(kind, f"ramp to {share / 100:g} %")


def _time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"
