"""Where a lifecycle is, and what happened to it: for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlcycle_nb.lifecycle.records import Approval, GateReading, Lifecycle
from mlcycle_nb.lifecycle.stages import ORDER, Stage
from mlcycle_nb.notebook.html import BLUE, GREEN, GREY, Markup, badge, escape, heading, paragraph, table, text_table

_GATE_HEADERS = ("next stage", "gate", "outcome", "found", "what to do")
_STEP_HEADERS = ("time", "by", "step", "version", "forced", "reason")
_EVENT_HEADERS = ("time", "by", "event", "from", "to", "version", "reason")


@dataclass(frozen=True, slots=True)
class NextStage:
    """A stage that may follow, with what its gates show now."""

    stage: Stage
    gates: tuple[GateReading, ...]
    problem: str = ""  # why the gates cannot even be read

    @property
    def open(self) -> bool:
        """Whether the lifecycle could go there now."""
        return not self.problem and all(reading.passed for reading in self.gates)


@dataclass(frozen=True, slots=True, repr=False)
class LifecycleStatus:
    """A lifecycle and its gates, as they are now."""

    lifecycle: Lifecycle
    next: tuple[NextStage, ...]
    approval: Approval | None = None

    @property
    def stage(self) -> Stage:
        """The stage it is in."""
        return self.lifecycle.stage

    def strip(self) -> str:
        """Return the stages in one line of text, the present one in brackets."""
        return " > ".join(f"[{stage.value}]" if stage is self.stage else stage.value for stage in ORDER)

    def gate_rows(self) -> list[tuple[str, ...]]:
        """Return one line for each gate before each next stage."""
        rows: list[tuple[str, ...]] = []
        for option in self.next:
            if option.problem:
                rows.append((option.stage.value, "version", "inconclusive", "none", option.problem))
            elif not option.gates:
                rows.append((option.stage.value, "-", "passed", "asks for nothing", ""))
            for reading in option.gates:
                todo = "" if reading.passed else " - ".join(t for t in (reading.problem, reading.remedy) if t)
                rows.append((option.stage.value, reading.gate, reading.outcome.value, reading.value, todo))
        return rows

    def step_rows(self) -> list[tuple[str, ...]]:
        """Return one line for each transition."""
        return [
            (
                f"{step.time:%Y-%m-%d %H:%M:%S}",
                step.actor,
                f"{step.source.value} > {step.target.value}",
                "-" if step.model_version is None else str(step.model_version),
                "FORCED" if step.forced else "",
                step.reason,
            )
            for step in self.lifecycle.transitions
        ]

    def summary(self) -> str:
        """Return the state in one line."""
        about = self.lifecycle
        approved = f", approved by {self.approval.approver}" if self.approval else ""
        return f"{about.id}: {about.reference} for {about.environment}, cycle {about.cycle}, {about.phase}{approved}"

    def __repr__(self) -> str:
        parts = [self.summary(), self.strip()]
        if self.next:
            parts.append(text_table(_GATE_HEADERS, self.gate_rows()))
        return "\n".join(parts)

    def to_html(self) -> str:
        """Return the state as HTML."""
        gates = [(*row[:2], badge(row[2]), *row[3:]) for row in self.gate_rows()]
        parts = [heading(self.summary()), stage_strip(self.lifecycle)]
        if gates:
            parts.append(table(_GATE_HEADERS, gates, caption="gates before the next stages"))
        if self.lifecycle.transitions:
            parts.append(table(_STEP_HEADERS, self.step_rows(), caption="steps"))
        if self.lifecycle.purpose:
            parts.append(paragraph(self.lifecycle.purpose))
        return "".join(parts)

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        about = self.lifecycle
        return {
            "lifecycle": about.id,
            "model": about.model,
            "version": about.model_version,
            "environment": about.environment,
            "cycle": about.cycle,
            "stage": about.phase,
            "next": {
                option.stage.value: {
                    "open": option.open,
                    "problem": option.problem,
                    "gates": {reading.gate: reading.outcome.value for reading in option.gates},
                }
                for option in self.next
            },
        }


@dataclass(frozen=True, slots=True, repr=False)
class LifecycleHistory:
    """All that happened to one lifecycle, oldest first."""

    name: str
    events: tuple[dict[str, Any], ...]

    def rows(self) -> list[tuple[str, ...]]:
        """Return one line for each event."""
        found: list[tuple[str, ...]] = []
        for event in self.events:
            detail = event["detail"]
            said = event["reason"] or detail.get("why", "")
            found.append(
                (
                    event["time"][:19].replace("T", " "),
                    event["actor"],
                    event["event"].removeprefix("lifecycle."),
                    detail.get("from", ""),
                    detail.get("to", ""),
                    detail.get("version", ""),
                    said,
                )
            )
        return found

    def __repr__(self) -> str:
        return text_table(_EVENT_HEADERS, self.rows())

    def _repr_html_(self) -> str:
        return heading(f"history of {self.name}") + table(_EVENT_HEADERS, self.rows())


def stage_strip(lifecycle: Lifecycle) -> Markup:
    """Return the stages as a strip: what is behind, the present one, what is ahead. Words say it, colour only helps."""
    passed = {step.source for step in lifecycle.transitions if step.cycle == lifecycle.cycle}
    passed |= {Stage.DEVELOPMENT} if lifecycle.stage is not Stage.DEVELOPMENT else set()
    cells = []
    for stage in ORDER:
        if stage is lifecycle.stage:
            mark, colour, weight = "▶", BLUE, "700"
        elif stage in passed:
            mark, colour, weight = "✓", GREEN, "400"
        else:
            mark, colour, weight = "○", GREY, "400"
        current = ' aria-current="step"' if stage is lifecycle.stage else ""
        cells.append(
            f'<li{current} style="display:inline-block;padding:4px 12px;border-bottom:3px solid {colour};'
            f'font-weight:{weight}"><span aria-hidden="true">{mark}</span> {escape(stage.value)}</li>'
        )
    label = escape(f"stages of {lifecycle.id}")
    return Markup(f'<ol aria-label="{label}" style="list-style:none;padding:0;margin:6px 0">{"".join(cells)}</ol>')
