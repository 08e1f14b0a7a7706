"""The panel of a search: how far it is, the best trial, curves, importance, and the table of trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlcycle_nb.notebook.html import Markup, badge, escape, heading, paragraph, table, text_table
from mlcycle_nb.notebook.panel import Action, Panel
from mlcycle_nb.training.search import charts
from mlcycle_nb.training.search.importance import importance
from mlcycle_nb.training.search.records import SearchTrial, TrainingSearch, shown

if TYPE_CHECKING:
    from mlcycle_nb.training.search.service import Searches

_ROWS = 25
_WORDS = {"complete": "completed", "pruning": "running"}


@dataclass(frozen=True, slots=True)
class SearchState:
    """One look at a search.

    Attributes
    ----------
    reports : dict
        Trial number -> the metric as it was reported.
    """

    search: TrainingSearch
    trials: tuple[SearchTrial, ...]
    reports: dict[int, tuple[float | None, ...]]

    @property
    def word(self) -> str:
        """The phase, as badges know it."""
        if self.search.active and self.search.stop_requested_at is not None:
            return "stopping"
        return "completed" if self.search.phase == "finished" else self.search.phase


class SearchPanel(Panel[SearchState]):
    """Shows one search; made again from its id in any kernel."""

    def __init__(self, searches: Searches, search: str) -> None:
        super().__init__()
        self._searches = searches
        self._search = search
        self._drawn: tuple[object, list[Any]] = (None, [])
        self._shares: tuple[int, dict[str, float]] = (-1, {})

    def title(self) -> str:
        """Return the search's name."""
        return f"search {self._search}"

    def snapshot(self) -> SearchState:
        """Read the record, then the trials: what ended is complete."""
        search = self._searches.get(self._search)
        trials = self._searches.trials(search.id)
        reports = {trial.number: self._searches.reports(trial) for trial in trials if trial.phase != "waiting"}
        return SearchState(search, tuple(trials), reports)

    def finished(self, state: SearchState) -> bool:
        """Return whether the search has ended."""
        return not state.search.active

    def tend(self) -> None:
        """Bring the supervisor back should it have been killed."""
        self._searches.tend(self._search)

    # -- faces -----------------------------------------------------------------------------------------------

    def text(self, state: SearchState) -> str:
        """Return a few lines and the table of trials."""
        search = state.search
        lines = [f"search {search.id}: {state.word}", f"  {_counts(state)}"]
        lines += [f"  {name}: {value}" for name, value in _facts(state)]
        shares = self._importance(state)
        if shares:
            told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
            lines.append(f"  importance: {told}")
        lines += [f"  {note}" for note in _notes(search)]
        if state.trials:
            lines.append(text_table(_headers(search), _rows(state)))
        return "\n".join(lines)

    def html(self, state: SearchState) -> str:
        """Return the same as tables."""
        search = state.search
        share = round(100 * search.ended / search.trials)
        bar = Markup(
            f'<div role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share}" '
            'style="background:#8884;height:8px;width:420px;max-width:100%;border-radius:4px">'
            f'<div style="background:#0072B2;height:8px;width:{share}%;border-radius:4px"></div></div>'
        )
        parts: list[str] = [heading(f"search {search.id}", state.word), bar, paragraph(_counts(state))]
        parts.append(table(("", ""), _facts(state)))
        parts += [paragraph(note) for note in _notes(search) if search.failure is None]
        if search.failure is not None:
            alert = escape(search.failure)
            parts.append(Markup(f'<div role="alert" style="color:#D55E00;font-weight:600">{alert}</div>'))
        parts.append(self.CHARTS_HERE)
        if state.trials:
            rows = [(first, badge(_WORDS.get(word, word)), *rest) for first, word, *rest in _rows(state)]
            parts.append(table(_headers(search), rows, caption=_caption(state)))
        return "".join(parts)

    def charts(self, state: SearchState) -> Sequence[Any]:
        """Return the charts that there is something to show in; drawn anew only when something has changed."""
        key = (state.search.best, tuple((one.phase, len(state.reports.get(one.number, ()))) for one in state.trials))
        if self._drawn[0] != key:
            self._drawn = (key, self._draw(state))
        return self._drawn[1]

    def actions(self, state: SearchState) -> Sequence[Action]:
        """Return a stop button while it runs, and one to go on when it was stopped or has failed."""
        search = state.search
        if search.active:
            if search.stop_requested_at is not None:
                return ()
            return (Action("Stop", lambda: self._searches.stop(self._search), "danger"),)
        if search.ended < search.trials:
            return (Action("Resume", lambda: self._searches.resume(self._search), "success"),)
        return ()

    # -- parts -----------------------------------------------------------------------------------------------

    def _draw(self, state: SearchState) -> list[Any]:
        search, trials = state.search, state.trials
        drawn = []
        if any(trial.value is not None for trial in trials):
            drawn.append(charts.best_chart(search, trials))
        if any(state.reports.values()):
            drawn.append(charts.curves_chart(search, trials, state.reports))
        if sum(trial.phase == "complete" for trial in trials) >= 2:
            drawn.append(charts.coordinates_chart(search, trials))
        shares = self._importance(state)
        if shares:
            drawn.append(charts.importance_chart(shares))
        return drawn

    def _importance(self, state: SearchState) -> dict[str, float]:
        """Return the importance, computed when a trial was completed since the last look."""
        complete = sum(trial.phase == "complete" for trial in state.trials)
        if self._shares[0] != complete:
            self._shares = (complete, importance(state.search, state.trials))
        return self._shares[1]


def _counts(state: SearchState) -> str:
    search = state.search
    phases = [trial.phase for trial in state.trials]
    words = ("complete", "pruned", "failed", "stopped")
    ended = ", ".join(f"{phases.count(word)} {word}" for word in words if word in phases)
    running = sum(phase in {"running", "pruning", "stopping"} for phase in phases)
    told = f"{search.ended} of {search.trials} trials" + (f": {ended}" if ended else "")
    return told + (f"; {running} running" if running else "")


def _facts(state: SearchState) -> list[tuple[str, str]]:
    search = state.search
    facts = []
    if search.best is not None and search.best_value is not None:
        best = state.trials[search.best]
        given = ", ".join(f"{entry.name}={shown(best.params[entry.name])}" for entry in search.space)
        facts.append(("best", f"{search.metric} {search.best_value:.4g} in trial {search.best} ({given})"))
    facts.append(("space", " ".join(map(str, search.space))))
    pruner = "no pruning" if search.pruner == "none" else f"pruner {search.pruner}"
    facts.append(
        ("search", f"{search.direction} {search.metric}, sampler {search.sampler}, {pruner}, seed {search.seed}")
    )
    facts.append(("at once", str(search.concurrent)))
    if search.registered:
        facts.append(("registered", f"{search.registered} (candidate)"))
    return facts


def _notes(search: TrainingSearch) -> list[str]:
    notes = []
    if search.failure is not None:
        notes.append(f"error: {search.failure}")
    if search.registration_error:
        notes.append(f"not registered: {search.registration_error}")
    return notes


def _headers(search: TrainingSearch) -> tuple[str, ...]:
    return ("trial", "state", search.metric, *(entry.name for entry in search.space), "reports", "job", "note")


def _rows(state: SearchState) -> list[tuple[str, ...]]:
    """Return the newest trials, and the best one above them when it is older."""
    search = state.search
    newest = list(state.trials[-_ROWS:])
    if search.best is not None and newest and newest[0].number > search.best:
        newest = [state.trials[search.best], *newest]
    return [_row(state, trial) for trial in newest]


def _row(state: SearchState, trial: SearchTrial) -> tuple[str, ...]:
    reports = state.reports.get(trial.number, ())
    last = trial.value if trial.value is not None or not reports else reports[-1]
    best = " ★" if trial.number == state.search.best else ""
    values = [shown(trial.params[entry.name]) for entry in state.search.space]  # records keep names sorted
    again = f"job {trial.tries}" if trial.tries > 1 else ""
    note = str(trial.failure) if trial.failure is not None else again
    value = "" if last is None else f"{last:.4g}"
    return (f"{trial.number}{best}", trial.phase, value, *values, str(len(reports)), trial.job, note)


def _caption(state: SearchState) -> str:
    left_out = len(state.trials) - _ROWS
    return f"trials (the newest {_ROWS} of {len(state.trials)})" if left_out > 0 else "trials"
