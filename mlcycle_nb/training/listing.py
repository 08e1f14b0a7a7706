"""Small results of ``%train``: a table of jobs, and plain text."""

from __future__ import annotations

from mlcycle_nb.notebook.html import Markup, badge, escape, table, text_table
from mlcycle_nb.training.records import TrainingJob

_HEADERS = ("job", "phase", "processes", "steps", "restarts", "started", "model version")


class JobList(list[TrainingJob]):
    """Training jobs as a table."""

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                job.id,
                job.phase,
                str(job.processes),
                str(job.steps) if not job.active else "",
                str(len(job.restarts)),
                "" if job.started_at is None else f"{job.started_at:%Y-%m-%d %H:%M:%S}",
                job.registered or "",
            )
            for job in self
        ]

    def __repr__(self) -> str:
        return text_table(_HEADERS, self._rows()) if self else "no training jobs yet; %%train makes one"

    def _repr_html_(self) -> str:
        if not self:
            return f"<div>{escape(repr(self))}</div>"
        return table(_HEADERS, [(row[0], badge(row[1]), *row[2:]) for row in self._rows()])


class Text(str):
    """Text that shows itself as it is, not quoted."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self) or "nothing was printed"

    def _repr_html_(self) -> str:
        return Markup(f'<pre style="max-height:30em;overflow:auto">{escape(repr(self))}</pre>')
