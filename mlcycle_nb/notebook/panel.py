"""Panels: one state, three faces. A live widget, static HTML with SVG charts, and plain text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from mlcycle_nb.errors import inert
from mlcycle_nb.notebook.charts import to_image
from mlcycle_nb.notebook.html import escape
from mlcycle_nb.notebook.live import is_live

if TYPE_CHECKING:
    from mlcycle_nb.notebook.live_view import LiveView

S = TypeVar("S")
REFRESH_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Action:
    """A button of a panel: does what the magic of the same name does."""

    label: str
    callback: Callable[[], Any]
    tone: Literal["", "danger", "success", "warning"] = ""


class Panel(Generic[S]):
    """A view of stored state; holds none of its own, so it can be made again in any kernel.

    Subclasses read their state in `snapshot` and draw it in `text`, `html` and `charts`.

    Attributes
    ----------
    CHARTS_HERE : str
        What `html` holds where buttons and charts belong; they come last when it holds none.
    """

    CHARTS_HERE: ClassVar[str] = "<!--charts-->"

    def __init__(self) -> None:
        self._live: LiveView | None = None

    # -- what a stage fills in -------------------------------------------------------------------------------

    def title(self) -> str:
        """Return the panel's name for people and screen readers."""
        raise TypeError(f"{type(self).__name__} has no title")

    def snapshot(self) -> S:
        """Read the state from the workspace."""
        raise TypeError(f"{type(self).__name__} has no snapshot")

    def text(self, state: S) -> str:
        """Return the plain-text face."""
        raise TypeError(f"{type(self).__name__} has no text")

    def html(self, state: S) -> str:
        """Return the HTML face, without charts."""
        raise TypeError(f"{type(self).__name__} has no html")

    def charts(self, state: S) -> Sequence[Any]:
        """Return Altair charts; none by default."""
        return ()

    def actions(self, state: S) -> Sequence[Action]:
        """Return the buttons that make sense now; none by default."""
        return ()

    def finished(self, state: S) -> bool:
        """Return whether the state can change no more, so that the live face stops reading it."""
        return True

    def tend(self) -> None:
        """Do what keeps the work going, about once a second while the live face is shown; nothing by default."""

    # -- faces -----------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return "\n".join(map(inert, self.text(self.snapshot()).split("\n")))

    def to_html(self) -> str:
        """Return the whole static face: HTML and charts as images."""
        state = self.snapshot()
        drawn = "".join(
            f'<div style="display:inline-block;margin:4px 12px 4px 0">{to_image(chart)}</div>'
            for chart in self.charts(state)
        )
        before, _, after = self.html(state).partition(self.CHARTS_HERE)
        return self.region(before + drawn + after)

    def region(self, html: str) -> str:
        """Return `html` as a region that screen readers announce by the panel's title."""
        return f'<div role="region" aria-label="{escape(self.title())}">{html}</div>'

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": repr(self), "text/html": self.to_html()}
        if is_live():
            model = {"version_major": 2, "version_minor": 0, "model_id": self.widget().model_id}
            bundle["application/vnd.jupyter.widget-view+json"] = model
        return bundle

    def _ipython_display_(self) -> None:
        if not is_live():
            raise NotImplementedError  # IPython then asks for the bundle
        from IPython.display import display

        bundle = self._repr_mimebundle_()
        handle = display(bundle, raw=True, display_id=True)
        if self._live is not None and handle is not None:
            self._live.displayed(handle)

    def widget(self) -> Any:
        """Return the live face, a widget that keeps itself up to date."""
        return self.live().widget

    def live(self) -> LiveView:
        """Return what keeps the live face fresh, and presses its buttons."""
        if self._live is None:
            from mlcycle_nb.notebook.live_view import LiveView

            self._live = LiveView(self, REFRESH_SECONDS)
        return self._live

    def close(self) -> None:
        """Stop updating and release the widgets."""
        if self._live is not None:
            self._live.close()
            self._live = None
