"""What a training panel says, from one look at a job: the same rows for the page and for the terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from mlcycle_nb.errors import inert
from mlcycle_nb.notebook.html import GREY, RED, Markup, badge, escape, heading, ink, number, paragraph, span, table
from mlcycle_nb.training.charts import undrawn
from mlcycle_nb.training.checkpoints import CheckpointRecord
from mlcycle_nb.training.heartbeat import Beat
from mlcycle_nb.training.progress import Progress
from mlcycle_nb.training.records import TrainingJob

SILENT_SECONDS = 5.0
_QUIET_SECONDS = 10.0
_BAR_CELLS = 24
_NOTES = 5
_CHECKPOINTS = 6
_RANKS = 16
_TROUBLE_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class TrainingState:
    """One look at a job.

    Attributes
    ----------
    checkpoints : sequence of (CheckpointRecord, bool or None)
        Those on the disk, newest first, and whether their bytes were found to be those written.
    printed : sequence of str
        The last lines that the ranks printed, made plain.
    now : float
        Seconds since 1970, when this was looked at.
    """

    job: TrainingJob
    progress: Progress
    beats: dict[int, Beat] = field(default_factory=dict)
    checkpoints: tuple[tuple[CheckpointRecord, bool | None], ...] = ()
    printed: tuple[str, ...] = ()
    now: float = 0.0

    @property
    def share(self) -> float | None:
        """Part of the steps that are done, or None when the total is unknown."""
        if self.job.phase == "finished":
            return 1.0
        total = self.progress.total_steps
        return min(1.0, self.progress.step / total) if total else None

    @property
    def recovering(self) -> bool:
        """Whether the workers were lost and the next ones are not at work yet."""
        job = self.job
        begun = self.progress.attempt >= job.attempt
        return job.active and bool(job.restarts) and (job.phase == "restarting" or not begun)

    @property
    def word(self) -> str:
        """The phase, as badges know it."""
        if self.job.stop_requested_at is not None and self.job.active:
            return "stopping"
        if self.recovering:
            return "recovering"
        words = {"finished": "completed", "queued": "waiting"}
        return words.get(self.job.phase, self.job.phase)


# -- the page ------------------------------------------------------------------------------------------------


def html(state: TrainingState, charts_here: str) -> str:
    """Return the panel as HTML; the place of the charts is marked."""
    job = state.job
    parts = [heading(f"training {job.id}", state.word), _progress_bar(state), _pace_line(state)]
    trouble = trouble_of(state)
    if trouble:
        role = "alert" if job.failure is not None else "status"
        parts.append(
            Markup(f'<div role="{role}" style="color:{ink(RED)};font-weight:600;margin:4px 0">{escape(trouble)}</div>')
        )
    parts.append(Markup(charts_here))
    facts = facts_of(state)
    if facts:
        parts.append(_facts_table(facts))
    parts.append(table(*ranks_table(state), caption="ranks"))
    if state.checkpoints:
        parts.append(table(*checkpoints_table(state), caption="checkpoints on the disk"))
    parts += [paragraph(note) for note in _notes(state)]
    if state.printed:
        parts.append(_printed(state))
    return "".join(parts)


def _progress_bar(state: TrainingState) -> Markup:
    share = state.share
    percent = 0 if share is None else math.floor(100 * share)
    value = "" if share is None else f' aria-valuenow="{percent}"'
    width = 100 if share is None and state.job.active else percent
    colour = f"var(--mlcycle-bar,#0072B2);opacity:{0.25 if share is None else 1}"
    return Markup(
        f'<div role="progressbar" aria-label="progress" aria-valuemin="0" aria-valuemax="100"{value} '
        'style="background:#8884;height:8px;width:560px;max-width:100%;border-radius:4px">'
        f'<div style="background:{colour};height:8px;width:{width}%;border-radius:4px"></div></div>'
    )


def _pace_line(state: TrainingState) -> Markup:
    spans = "".join(f'<span style="margin-right:18px;white-space:nowrap">{escape(text)}</span>' for text in pace(state))
    return Markup(f'<div style="margin:4px 0;font-variant-numeric:tabular-nums">{spans}</div>')


def _facts_table(facts: list[tuple[str, str]]) -> Markup:
    cell = "padding:1px 14px 1px 0;text-align:left;vertical-align:top"
    rows = "".join(
        f'<tr><th scope="row" style="{cell};font-weight:400;color:{ink(GREY)}">{escape(name)}</th>'
        f'<td style="{cell}">{escape(value)}</td></tr>'
        for name, value in facts
    )
    return Markup(f'<table style="border-collapse:collapse;font-size:0.95em"><tbody>{rows}</tbody></table>')


def _printed(state: TrainingState) -> Markup:
    lines = "\n".join(escape(line) for line in state.printed)
    return Markup(
        f'<div style="font-weight:600;margin-top:4px">printed <span style="font-weight:400;color:{ink(GREY)}">'
        f"(%train logs {escape(state.job.id)} shows more)</span></div>"
        '<pre data-follow="" tabindex="0" aria-label="last printed lines" style="max-height:14em;overflow:auto;'
        "margin:2px 0;padding:4px 8px;background:#8881;border-radius:3px;font-size:0.92em;white-space:pre-wrap;"
        f'overflow-wrap:anywhere">{lines}</pre>'
    )


# -- the terminal --------------------------------------------------------------------------------------------


def text(state: TrainingState) -> str:
    """Return a few plain lines, inert and of bounded number and length."""
    lines = [f"training {state.job.id}: {_phase(state)}", f"  {_bar(state)}"]
    if state.job.active and len(pace(state)) > 2:
        lines.append(f"  pace: {', '.join(pace(state)[2:])}")
    lines += [f"  {name}: {value}" for name, value in facts_of(state)]
    memory = [f"{size / 1e6:.0f}" for size in _memory(state)]
    if memory:
        lines.append(f"  memory: {', '.join(memory)} MB")
    lines += [f"  note: {note}" for note in _notes(state)]
    if state.job.failure is not None:
        lines.append(f"  error: {state.job.failure}")
    elif trouble_of(state) and state.job.active:
        lines.append(f"  trouble: {trouble_of(state)}")
    return "\n".join(inert(line[: 4 * _TROUBLE_CHARACTERS]) for line in lines)


def _phase(state: TrainingState) -> str:
    job = state.job
    if job.stop_requested_at is not None and job.active:
        return "stopping, after a checkpoint"
    return f"recovering ({job.restarts[-1].why})" if state.recovering else job.phase


def _bar(state: TrainingState) -> str:
    filled = 0 if state.share is None else math.floor(_BAR_CELLS * state.share)
    return f"[{'#' * filled}{'.' * (_BAR_CELLS - filled)}] {', '.join(_place(state))}"


# -- what both say -------------------------------------------------------------------------------------------


def _place(state: TrainingState) -> list[str]:
    progress, job = state.progress, state.job
    if job.script and not progress.step:
        return ["a script that tells no steps"]
    steps = f"step {progress.step}" + (f" of {progress.total_steps}" if progress.total_steps else "")
    epochs = progress.epochs or job.epochs
    done = epochs if job.phase == "finished" and not progress.ended_early else min(progress.epoch + 1, epochs)
    return [steps, f"epoch {done} of {epochs}"]


def pace(state: TrainingState) -> list[str]:
    """Return where the job stands and how fast it goes."""
    progress, found = state.progress, _place(state)
    if not state.job.active:
        if state.job.started_at is not None and state.job.ended_at is not None:
            found.append(f"took {span((state.job.ended_at - state.job.started_at).total_seconds())}")
        return found
    if state.job.phase != "running" or state.recovering:
        return found
    quiet = 0.0 if progress.last_at is None or not state.now else state.now - progress.last_at
    if quiet > _QUIET_SECONDS:
        return [*found, f"nothing new for {span(quiet)}"]
    if progress.throughput:
        found.append(f"{number(_rounded(progress.throughput))} samples/s")
    if progress.steps_per_second:
        found.append(f"{number(_rounded(progress.steps_per_second))} steps/s")
    if progress.eta_seconds is not None:
        found.append(f"about {span(math.ceil(progress.eta_seconds))} left")
    return found


def trouble_of(state: TrainingState) -> str:
    """Return what is wrong, in one line; the empty text when nothing is."""
    return _bounded(_trouble(state))


def _trouble(state: TrainingState) -> str:
    job, progress = state.job, state.progress
    if job.failure is not None:
        return f"failed: {job.failure}"
    if state.recovering:
        last = job.restarts[-1]
        place = "the start" if last.from_step is None else f"step {last.from_step}"
        return f"recovering: {last.why}; goes on from {place}"
    silent = [rank for rank, word, *_ in _rank_rows(state) if word == "silent"]
    if silent:
        ages = [state.now - state.beats[rank].time for rank in silent]
        names = ", ".join(map(str, silent))
        return f"no sign of life from rank {names} for {span(max(ages))}"
    if job.active and progress.not_finite:
        counted = ", ".join(f"{name} {_times(count)}" for name, count in sorted(progress.not_finite.items()))
        return f"NaN or infinite: {counted}"
    return ""


def facts_of(state: TrainingState) -> list[tuple[str, str]]:
    """Return what is worth a line of its own."""
    job, progress = state.job, state.progress
    facts = []
    metrics = [f"{name} {_value(value)}" for name, value in sorted(progress.latest().items()) if name != "lr"]
    if metrics:
        facts.append(("metrics", _bounded(", ".join(metrics))))
    if "lr" in progress.latest():
        facts.append(("learning rate", _value(progress.latest()["lr"])))
    if undrawn(progress):
        facts.append(("without a chart", _bounded(", ".join(undrawn(progress)))))
    if progress.world is not None:
        plural = "process" if progress.world == 1 else "processes"
        facts.append(("world", f"{progress.world} {plural} on {progress.device}"))
    best = progress.best()
    if progress.checkpoints:
        newest = progress.checkpoints[-1]
        told = f"{len(progress.checkpoints)} taken, newest at step {newest['step']}"
        if best is not None and progress.best_name:
            told += f", best at step {best['step']} ({progress.best_name} {_value(best['metric'])})"
        facts.append(("checkpoints", told))
    if job.restarts:
        steps = ", ".join("the start" if r.from_step is None else f"step {r.from_step}" for r in job.restarts[-8:])
        facts.append(("recoveries", _bounded(f"{len(job.restarts)} (from {steps}); last: {job.restarts[-1].why}")))
    if job.rollbacks:
        back = job.rollbacks[-1]
        passed = f"batches {back.first_batch} to {back.last_batch} of epoch {back.epoch + 1} passed over"
        facts.append(("rolled back", _bounded(f"{_times(len(job.rollbacks))}; last: {back.why}, {passed}")))
    if job.ending:
        facts.append(("ended", _bounded(job.ending)))
    if job.nodes > 1:
        facts.append(("hosts", f"{job.nodes}, which meet at {job.rendezvous}"))
    if progress.ended_early:
        facts.append(("ended early", progress.ended_early))
    if job.environment:
        facts.append(("environment", job.environment))
    if job.not_reproducible:
        facts.append(("reproducible", _bounded(f"no: {'; '.join(job.not_reproducible)}")))
    if job.registered:
        facts.append(("registered", job.registered))
    return facts


def ranks_table(state: TrainingState) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Return headers and a row for each rank: what it does, how far it is, when it was last heard of."""
    rows = _rank_rows(state)
    gpu = any(beat.gpu_bytes is not None for beat in state.beats.values())
    headers = ("rank", "state", "step", "attempt", "restarts", "last seen", "memory", *(["GPU"] if gpu else []))
    shown: list[tuple[object, ...]] = [
        (rank, badge(word), step, attempt, restarts, sign, memory, *([on_gpu] if gpu else []))
        for rank, word, step, attempt, restarts, sign, memory, on_gpu in rows[:_RANKS]
    ]
    if len(rows) > _RANKS:
        worse = sum(word in {"silent", "lost"} for _, word, *_ in rows[_RANKS:])
        shown.append(("…", f"{len(rows) - _RANKS} more, {worse} of them silent or lost", *[""] * (len(headers) - 2)))
    return headers, shown


def _rank_rows(state: TrainingState) -> list[tuple[int, str, int, int, int, str, str, str]]:
    found = []
    for rank in range(state.job.processes):
        beat, told = state.beats.get(rank), state.progress.ranks.get(rank)
        size = beat.memory_bytes if beat is not None else None if told is None else told.memory_bytes
        on_gpu = None if beat is None else beat.gpu_bytes
        found.append(
            (
                rank,
                _rank_word(state, beat),
                0 if told is None else told.step,
                beat.attempt if beat is not None else state.job.attempt,
                max(0, state.job.attempt - 1),
                _age(state, beat),
                "" if size is None else f"{size / 1e6:.0f} MB",
                "" if on_gpu is None else f"{on_gpu / 1e6:.0f} MB",
            )
        )
    return found


def _rank_word(state: TrainingState, beat: Beat | None) -> str:
    if not state.job.active:
        return "ended"
    if state.job.phase == "queued":
        return "waiting"
    if state.job.phase == "restarting":
        return "ended" if beat is not None and beat.ended else "lost"
    if beat is None or beat.attempt != state.job.attempt:
        return "starting"
    if beat.ended:
        return "ended"
    return "running" if state.now - beat.time < SILENT_SECONDS else "silent"


def _age(state: TrainingState, beat: Beat | None) -> str:
    if beat is None:
        return ""
    if not state.job.active:
        return ""
    age = state.now - beat.time
    return "now" if age < SILENT_SECONDS else f"{span(age)} ago"


def checkpoints_table(state: TrainingState) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Return headers and a row for each of the newest checkpoints, and the best."""
    records = [record for record, _ in state.checkpoints]
    scored = [record for record in records if record.metric is not None]
    best = min(scored, key=lambda r: (r.metric or 0.0) * (1 if r.lower_is_better else -1)) if scored else None
    rows: list[tuple[object, ...]] = []
    for place, (record, whole) in enumerate(state.checkpoints):
        if place >= _CHECKPOINTS and record is not best:
            continue
        kept_as = " and ".join(word for word, is_so in (("last", place == 0), ("best", record is best)) if is_so)
        verified = {True: badge("verified"), False: badge("damaged"), None: "not read yet"}[whole]
        metric = "" if record.metric is None else f"{_value(record.metric)}"
        rows.append((record.step, metric, _size(record.size_bytes), kept_as, verified))
    name = state.progress.best_name or "metric"
    return ("step", name, "size", "kept as", "bytes"), rows


def _memory(state: TrainingState) -> list[int]:
    told = state.progress.memory_bytes | {rank: beat.memory_bytes for rank, beat in state.beats.items()}
    return [size for _, size in sorted(told.items())][:_RANKS]


def _notes(state: TrainingState) -> list[str]:
    notes = [_bounded(note) for note in state.progress.notes[-_NOTES:]]
    error = state.job.registration_error
    return [*notes, _bounded(f"not registered: {error}")] if error else notes


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


def _rounded(value: float) -> float:
    return float(f"{value:.2g}") if value < 100 else float(f"{value:.3g}")


def _bounded(line: str) -> str:
    line = " ".join(line.split())
    return line if len(line) <= _TROUBLE_CHARACTERS else f"{line[:_TROUBLE_CHARACTERS]}…"


def _value(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else str(value)
