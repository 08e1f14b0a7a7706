"""The table of searches that ``%train search list`` shows."""

from __future__ import annotations

from mlcycle_nb.notebook.html import badge, escape, table, text_table
from mlcycle_nb.training.search.records import TrainingSearch

_HEADERS = ("search", "phase", "trials", "best", "metric", "sampler", "pruner", "begun", "model version")


class SearchList(list[TrainingSearch]):
    """Searches as a table."""

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                search.id,
                search.phase,
                f"{search.ended} of {search.trials}",
                "" if search.best_value is None else f"{search.best_value:.4g}",
                search.metric,
                search.sampler,
                search.pruner,
                f"{search.created_at:%Y-%m-%d %H:%M:%S}",
                search.registered or "",
            )
            for search in self
        ]

    def __repr__(self) -> str:
        return text_table(_HEADERS, self._rows()) if self else "no searches yet; %%train MODEL --search makes one"

    def _repr_html_(self) -> str:
        if not self:
            return f"<div>{escape(repr(self))}</div>"
        return table(_HEADERS, [(row[0], badge(row[1]), *row[2:]) for row in self._rows()])
