"""The panel of one validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mlcycle_nb.notebook.panel import Panel
from mlcycle_nb.validation.records import Validation
from mlcycle_nb.validation.report import as_html, as_text


class ValidationPanel(Panel[Validation]):
    """Verdict, gates with intervals, what to do next.

    Parameters
    ----------
    read : callable
        Returns the record as it is now.
    """

    def __init__(self, read: Callable[[], Validation]) -> None:
        super().__init__()
        self._read = read

    def title(self) -> str:
        """Return the name for people and screen readers."""
        return "validation"

    def snapshot(self) -> Validation:
        """Read the record."""
        return self._read()

    def text(self, state: Validation) -> str:
        """Return the plain-text face."""
        return as_text(state)

    def html(self, state: Validation) -> str:
        """Return the HTML face."""
        return as_html(state)

    def charts(self, state: Validation) -> Sequence[Any]:
        """Return intervals against bounds, and groups."""
        from mlcycle_nb.validation.charts import charts

        return charts(state) if state.finished else ()

    def finished(self, state: Validation) -> bool:
        """Return whether the verdict is in."""
        return state.finished
