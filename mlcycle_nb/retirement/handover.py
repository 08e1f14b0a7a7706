"""Knowledge transfer: a document made from the record, with the parts that only people can write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlcycle_nb.errors import InvalidInput, did_you_mean
from mlcycle_nb.retirement.records import Retirement
from mlcycle_nb.store.record import format_time

MANDATORY = {
    "migration": "How callers move to the replacement, or what they do without one",
    "contact": "Who answers questions about the retired version",
}
OPTIONAL = {
    "lessons": "What was learned from running it",
    "open_issues": "What was left undone",
}
NOTE_LIMIT = 10_000


def missing_notes(notes: Mapping[str, str]) -> list[str]:
    """Return the mandatory fields that nobody has filled in."""
    return [field for field in MANDATORY if not notes.get(field, "").strip()]


def with_note(notes: Mapping[str, str], field: str, text: str) -> dict[str, str]:
    """Return the notes with one field written.

    Raises
    ------
    InvalidInput
        For an unknown field, an empty or an endless text.
    """
    known = [*MANDATORY, *OPTIONAL]
    if field not in known:
        remedy = f"{did_you_mean(field, known)}known: {', '.join(known)}"
        raise InvalidInput("no such field of the knowledge transfer", value=field, remedy=remedy)
    if not text.strip():
        raise InvalidInput(f"the text of {field} is empty", where="knowledge transfer")
    if len(text) > NOTE_LIMIT:
        raise InvalidInput(f"the text of {field} has {len(text)} characters, over {NOTE_LIMIT}")
    return {**notes, field: text.strip()}


def document(
    record: Retirement, evidence: Mapping[str, Sequence[Mapping[str, Any]]], lineage: Mapping[str, Any]
) -> str:
    """Return the knowledge transfer as Markdown.

    Parameters
    ----------
    record : Retirement
        The retirement, with the notes that people wrote.
    evidence : mapping
        Stored documents by kind, as `mlcycle_nb.retirement.evidence.documents` returns them.
    lineage : mapping
        Where the version came from: run, parameters, data.
    """
    lines = [f"# Knowledge transfer: {record.reference} in {record.environment}", "", f"Reason: {_text(record.reason)}"]
    lines += [f"Replacement: {record.replacement or 'none'}", f"Package: {record.package_digest}", ""]
    for field, question in {**MANDATORY, **OPTIONAL}.items():
        text = record.notes.get(field, "").strip()
        mark = "**(to be filled in)**" if field in MANDATORY else "(nothing noted)"
        lines += [f"## {question}", "", _text(text) if text else mark, ""]
    lines += ["## Where it came from", ""]
    lines += [f"- {key}: {_text(value)}" for key, value in sorted(lineage.items())] or ["- not recorded"]
    lines += ["", "## Verdicts", ""]
    lines += _listed(evidence.get("validation", ()), record.model_version, ("outcome", "rows", "problem"))
    lines += ["", "## Rollouts", ""]
    lines += _listed(evidence.get("rollout", ()), None, ("phase", "target", "reason"))
    lines += ["", "## Alerts", ""]
    lines += _listed(evidence.get("alert", ()), None, ("phase", "kind", "summary", "subjects"))
    lines += ["", "## Who called it", ""]
    lines += [
        f"- {one.name}: {one.requests} requests, last {format_time(one.last_seen)[:19]}Z, {one.state}"
        + (f" by {one.by}: {_text(one.said)}" if one.by else "")
        for one in record.consumers
    ] or ["- nobody"]
    return "\n".join(lines) + "\n"


def _listed(documents: Sequence[Mapping[str, Any]], version: int | None, fields: Sequence[str]) -> list[str]:
    rows = []
    for one in documents:
        if version is not None and one.get("model_version", version) != version:
            continue
        said = "; ".join(f"{field} {_text(one[field])}" for field in fields if one.get(field) not in (None, "", [], {}))
        rows.append(f"- {one['id']} ({one['created_at'][:10]}): {said or 'nothing noted'}")
    return rows or ["- none"]


def _text(value: object) -> str:
    """Return a value as one line of inert Markdown: what users typed must not become structure."""
    line = " ".join(str(value).split())
    for character in "\\`*_[]<>#|":
        line = line.replace(character, "\\" + character)
    return line
