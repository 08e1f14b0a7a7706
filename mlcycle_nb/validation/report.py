"""The report of a validation: the same numbers as text, Markdown, JSON and one self-contained HTML page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlcycle_nb.files import write_atomically
from mlcycle_nb.notebook.html import Markup, badge, escape, figure, heading, paragraph, table, text_table
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.store.record import jsonable
from mlcycle_nb.validation.records import GateResult, Validation

MIME = "application/vnd.mlcycle.v1+json"
_HEADERS = ("gate", "outcome", "bound", "value with interval", "n", "why")


class ValidationReport:
    """A finished (or running) validation, ready to be shown, saved or asked.

    Parameters
    ----------
    record : Validation
        As stored; the report adds nothing to it.
    """

    def __init__(self, record: Validation) -> None:
        self.record = record

    @property
    def id(self) -> str:
        """Id of the validation."""
        return self.record.id

    @property
    def outcome(self) -> Outcome:
        """The verdict."""
        return self.record.outcome

    @property
    def passed(self) -> bool:
        """Whether every required gate passed."""
        return self.record.passed

    @property
    def results(self) -> tuple[GateResult, ...]:
        """One result a gate, in the order of the gates file."""
        return self.record.results

    def result(self, check: str) -> GateResult:
        """Return the first result of a check."""
        return next(result for result in self.record.results if result.check == check)

    def __repr__(self) -> str:
        return as_text(self.record)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        tree: dict[str, Any] = jsonable(self.record)
        counts = {outcome.value: count for outcome, count in self.record.counts().items()}
        return {**tree, "reference": self.record.reference, "counts": counts}

    def to_json(self) -> str:
        """Return the report as JSON text; it holds no NaN."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, allow_nan=False)

    def to_markdown(self) -> str:
        """Return the report as Markdown."""
        return as_markdown(self.record)

    def to_html(self) -> str:
        """Return one page with its charts inside; it loads nothing."""
        from mlcycle_nb.notebook.charts import to_image
        from mlcycle_nb.validation.charts import charts

        title = escape(f"Validation of {self.record.reference}")
        drawn = "".join(f"<div>{to_image(chart)}</div>" for chart in charts(self.record))
        style = "font-family:system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em"
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>'
            f'<body style="{style}">{as_html(self.record)}{drawn}</body></html>'
        )

    def save(self, path: Path | str) -> Path:
        """Write the report; the suffix ``.html``, ``.json``, ``.md`` or ``.txt`` says how."""
        from mlcycle_nb.errors import InvalidInput

        file = Path(path)
        writers = {".html": self.to_html, ".json": self.to_json, ".md": self.to_markdown, ".txt": self.__repr__}
        if file.suffix not in writers:
            raise InvalidInput("cannot tell the kind of report", value=file.name, remedy=f"known: {', '.join(writers)}")
        if not file.absolute().parent.is_dir():
            raise InvalidInput("there is no such folder", value=str(file.parent))
        write_atomically(file.absolute(), writers[file.suffix]())
        return file

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        from mlcycle_nb.validation.panel import ValidationPanel

        bundle = ValidationPanel(lambda: self.record)._repr_mimebundle_(include, exclude)
        return {**bundle, MIME: self.to_dict()}


def summary(record: Validation) -> str:
    """Return one line: verdict and counts, which add up to the number of gates."""
    if not record.finished:
        return f"stage: validation, {record.reference}, running {len(record.gates)} gates"
    counts = ", ".join(f"{count} {outcome}" for outcome, count in record.counts().items() if count)
    return f"stage: validation, {record.reference}, outcome: {record.outcome} ({len(record.results)} gates: {counts})"


def as_text(record: Validation) -> str:
    """Return the plain-text face."""
    lines = [summary(record)]
    if record.results:
        lines.append(text_table(_HEADERS[:-1], [_row(result) for result in record.results]))
    for result in _not_passed(record):
        lines.append(f"{result.check}: {result.reason}")
        if result.next_step:
            lines.append(f"  next: {result.next_step}")
    return "\n".join(lines)


def as_markdown(record: Validation) -> str:
    """Return the report in Markdown; what others wrote cannot break its tables."""
    head = [f"# Validation of {_md(record.reference)}: {record.outcome}", "", _md(summary(record)), ""]
    rows = ["| " + " | ".join(_HEADERS) + " |", "|" + " --- |" * len(_HEADERS)]
    rows += [
        "| " + " | ".join(_md(cell) for cell in (*_row(result), result.reason)) + " |" for result in record.results
    ]
    todo = [f"- **{_md(r.check)}**: {_md(r.next_step)}" for r in _not_passed(record) if r.next_step]
    if todo:
        todo = ["", "## What to do next", "", *todo]
    return "\n".join([*head, *rows, *todo, "", "## Evidence", "", *(f"- {k}: `{v}`" for k, v in _evidence(record)), ""])


def as_html(record: Validation) -> str:
    """Return the HTML face without charts."""
    parts = [
        heading(f"Validation of {record.reference}", record.outcome if record.finished else "running"),
        paragraph(summary(record)),
    ]
    if record.results:
        rows = [(r[0], badge(r[1]), *r[2:], result.reason) for r, result in _with_rows(record)]
        parts.append(table(_HEADERS, rows))
    todo = [(result.check, result.next_step) for result in _not_passed(record) if result.next_step]
    if todo:
        parts.append(table(("gate", "what to do next"), todo, caption="What to do next"))
    evidence = table(("of", "digest"), _evidence(record))
    parts.append(Markup(f"<details><summary>Evidence this verdict is bound to</summary>{evidence}</details>"))
    return "".join(parts)


def _with_rows(record: Validation) -> list[tuple[tuple[str, ...], GateResult]]:
    return [(_row(result), result) for result in record.results]


def _row(result: GateResult) -> tuple[str, ...]:
    name = result.check if result.required else f"{result.check} (not required)"
    n = "" if result.n is None else f"{result.n:,}"
    interval = "" if result.value is None else figure(result.value, result.unit, result.low, result.high)
    return name, str(result.outcome), result.bound, interval, n


def _not_passed(record: Validation) -> list[GateResult]:
    return [result for result in record.results if result.outcome is not Outcome.PASSED]


def _evidence(record: Validation) -> list[tuple[str, str]]:
    evidence = record.evidence
    return [
        ("package", evidence.package),
        ("data", evidence.data),
        ("gates", evidence.gates),
        ("checks", evidence.code),
    ]


def _md(text: object) -> str:
    plain = escape(text).replace("\n", " ")
    for character in "\\|`*_[]":
        plain = plain.replace(character, f"\\{character}")
    return plain
