"""The handle of a search."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mlcycle_nb.errors import JobFailed
from mlcycle_nb.notebook.handle import Handle
from mlcycle_nb.training.search.records import SearchTrial, TrainingSearch

if TYPE_CHECKING:
    from mlcycle_nb.training.search.service import Searches


class SearchHandle(Handle[TrainingSearch]):
    """A search that goes on by itself: show it, wait for it, stop it, ask for its trials.

    Attributes
    ----------
    attached : bool
        Whether the search was there already when the cell was run.
    """

    def __init__(
        self, searches: Searches, search: str, *, attached: bool = False, sustain: Callable[[], None] | None = None
    ) -> None:
        from mlcycle_nb.training.search.panel import SearchPanel

        self._searches = searches
        self.attached = attached
        super().__init__(
            search,
            read=lambda: searches.get(search),
            done=lambda record: not record.active,
            panel=lambda: SearchPanel(searches, search),
            sustain=sustain,
        )

    def stop(self, reason: str = "") -> TrainingSearch:
        """Ask the search to end; it can be resumed."""
        return self._searches.stop(self.id, reason=reason)

    def trials(self) -> list[SearchTrial]:
        """Return the trials by their numbers."""
        return self._searches.trials(self.id)

    @property
    def best(self) -> SearchTrial | None:
        """The best trial so far."""
        number = self.record.best
        return None if number is None else self.trials()[number]

    def result(self, timeout: float | None = None) -> TrainingSearch:
        """Wait and return the finished search.

        Raises
        ------
        JobFailed
            With what ended it.
        """
        return raise_if_failed(self.wait(timeout))


def raise_if_failed(search: TrainingSearch) -> TrainingSearch:
    """Return `search`, or raise what made it fail."""
    if search.failure is not None:
        remedy = f"%train search show {search.id}; %train search resume {search.id} tries again"
        raise JobFailed(f"search {search.id} failed: {search.failure}", remedy=remedy)
    return search
