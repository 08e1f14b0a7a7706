"""Proof after the fact: nothing of a retired version is left where it should not be, and the archive still lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlcycle_nb.context import Context
from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.notebook.html import badge, heading, table, text_table
from mlcycle_nb.outcomes import Outcome, overall
from mlcycle_nb.retirement import certificate, cleanup, proof
from mlcycle_nb.retirement.records import COMPLETED, Retirement
from mlcycle_nb.retirement.world import ModelRegistry, Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    what: str
    outcome: Outcome
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetirementVerification:
    """What a verification found; it is good only when everything is."""

    reference: str
    environment: str
    findings: tuple[Finding, ...]

    @property
    def outcome(self) -> Outcome:
        """The worst of the findings."""
        return overall(finding.outcome for finding in self.findings)

    @property
    def passed(self) -> bool:
        """Whether everything was shown to be as it should."""
        return self.outcome is Outcome.PASSED

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        found = [{"what": f.what, "outcome": str(f.outcome), "detail": f.detail} for f in self.findings]
        return {
            "reference": self.reference,
            "environment": self.environment,
            "outcome": str(self.outcome),
            "findings": found,
        }

    def __repr__(self) -> str:
        rows = [(f.what, str(f.outcome), f.detail) for f in self.findings]
        title = f"retirement of {self.reference} in {self.environment}: {self.outcome}"
        return "\n".join([title, text_table(("what", "outcome", "found"), rows)])

    def _repr_html_(self) -> str:
        rows = [(f.what, badge(f.outcome), f.detail) for f in self.findings]
        title = heading(f"retirement of {self.reference} in {self.environment}", self.outcome)
        return title + table(("what", "outcome", "found"), rows)


def verify(context: Context, record: Retirement, traffic: Traffic, registry: ModelRegistry) -> RetirementVerification:
    """Look at everything again; a look that fails is an error, never a pass."""
    where = (record.environment, record.model, record.model_version)

    def archive() -> tuple[bool, str]:
        if record.archive is None:
            return False, "there is none"
        path = context.home / record.archive.path
        rows = proof.prove(context, path, record.archive.sha256, record.package_digest)
        return True, f"{record.archive.members} files match, {rows} golden rows answered by the restored model"

    def address() -> tuple[bool, str]:
        found = traffic.in_force(*where)
        return (
            found.gone and found.successor == record.replacement,
            f"410, successor {found.successor}" if found.gone else "it answers",
        )

    def processes() -> tuple[bool, str]:
        left = traffic.processes(*where)
        return not left, ", ".join(left) or "none"

    def package() -> tuple[bool, str]:
        place = cleanup.package_place(context, record)
        held = [item.why for item in record.cleanup if item.kind == "file" and item.disposition == "refuse"]
        if place is None:
            return True, "is gone from the store and from its tombstone"
        return bool(held), held[0] if held else f"is still at {place.relative_to(context.home)}"

    def aliases() -> tuple[bool, str]:
        naming = sorted(a for a, version in registry.aliases(record.model).items() if version == record.model_version)
        return not naming, ", ".join(naming) or "none names it"

    def deleted() -> tuple[bool, str]:
        if not record.certificate:
            return False, "there is none"
        said = certificate.check(context, context.home / record.certificate)
        return said["retirement"] == record.id, f"signed, {len(said['files'])} files, {said['deleted_at'][:19]}Z"

    looks: list[tuple[str, Callable[[], tuple[bool, str]]]] = [
        ("phase", lambda: (record.phase == COMPLETED, record.phase)),
        ("archive", archive),
        ("address", address),
        ("processes", processes),
        ("package", package),
        ("aliases", aliases),
        ("deletion certificate", deleted),
    ]
    findings = tuple(_look(what, look) for what, look in looks)
    return RetirementVerification(reference=record.reference, environment=record.environment, findings=findings)


def _look(what: str, look: Callable[[], tuple[bool, str]]) -> Finding:
    try:
        good, detail = look()
    except MLCycleError as failure:
        return Finding(what=what, outcome=Outcome.ERROR, detail=str(failure))
    return Finding(what=what, outcome=Outcome.PASSED if good else Outcome.FAILED, detail=detail)
