"""Small results of ``%train``: a table of jobs, and plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from mlcycle_nb.notebook.html import badge, escape, span, table, text_table
from mlcycle_nb.training.records import TrainingJob

_HEADERS = ("job", "state", "progress", "age", "best metric", "processes", "restarts", "model version")
_WORDS = {"finished": "completed", "queued": "waiting", "restarting": "recovering"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStanding:
    """How far a job is, from what the supervisor noted last.

    Attributes
    ----------
    best : (str, float), optional
        Name and value of the metric that checkpoints are chosen by, of the best checkpoint that is kept.
    """

    step: int = 0
    total_steps: int | None = None
    best: tuple[str, float] | None = None


class JobList(list[TrainingJob]):
    """Training jobs as a table.

    Parameters
    ----------
    jobs : iterable of TrainingJob
    standings : mapping of str to JobStanding, optional
        By the jobs' ids.
    now : datetime, optional
        What ages are counted to.
    """

    def __init__(
        self,
        jobs: Iterable[TrainingJob] = (),
        standings: Mapping[str, JobStanding] | None = None,
        now: datetime | None = None,
    ) -> None:
        super().__init__(jobs)
        self.standings = dict(standings or {})
        self._now = now

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                job.id,
                "stopping" if job.active and job.stop_requested_at is not None else _WORDS.get(job.phase, job.phase),
                _progress(job, self.standings.get(job.id, JobStanding(step=job.steps))),
                self._age(job),
                _best(self.standings.get(job.id)),
                str(job.processes),
                str(len(job.restarts)),
                job.registered or "",
            )
            for job in self
        ]

    def _age(self, job: TrainingJob) -> str:
        if self._now is None:
            return f"{job.created_at:%Y-%m-%d %H:%M:%S}"
        return span((self._now - job.created_at).total_seconds())

    def __repr__(self) -> str:
        return text_table(_HEADERS, self._rows()) if self else "no training jobs yet; %%train makes one"

    def _repr_html_(self) -> str:
        if not self:
            return f"<div>{escape(repr(self))}</div>"
        return table(_HEADERS, [(row[0], badge(row[1]), *row[2:]) for row in self._rows()])


def _progress(job: TrainingJob, standing: JobStanding) -> str:
    if not standing.total_steps:
        return f"step {standing.step}" if standing.step else ""
    share = 100 if job.phase == "finished" else min(100, 100 * standing.step // standing.total_steps)
    return f"{share}%, step {standing.step} of {standing.total_steps}"


def _best(standing: JobStanding | None) -> str:
    if standing is None or standing.best is None:
        return ""
    name, value = standing.best
    return f"{name} {value:.4g}".strip()
