"""Panels: one state, three faces. A live widget, static HTML with SVG charts, and plain text."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from mlcycle_nb.errors import inert
from mlcycle_nb.notebook.charts import spec, to_image
from mlcycle_nb.notebook.html import escape
from mlcycle_nb.notebook.live import is_live

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
    """

    def __init__(self) -> None:
        self._live: _LiveView | None = None

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
        return self.region(self.html(state) + drawn)

    def region(self, html: str) -> str:
        """Return `html` as a region that screen readers announce by the panel's title."""
        return f'<div role="region" aria-label="{escape(self.title())}">{html}</div>'

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle = {"text/plain": repr(self), "text/html": self.to_html()}
        if is_live():
            bundle |= self.widget()._repr_mimebundle_()
            bundle["text/plain"] = repr(self)
        return bundle

    def widget(self) -> Any:
        """Return the live face, an ipywidgets box that keeps itself up to date."""
        if self._live is None:
            self._live = _LiveView(self)
        return self._live.box

    def close(self) -> None:
        """Stop updating and release the widgets."""
        if self._live is not None:
            self._live.close()
            self._live = None


class _LiveView:
    """The widgets of one panel and the thread that refreshes them."""

    def __init__(self, panel: Panel[Any]) -> None:
        import altair as alt
        import ipywidgets as widgets

        if not getattr(alt.JupyterChart, "_is_offline", False):
            alt.JupyterChart.enable_offline()  # without it the chart loads from a CDN and stays blank offline
        self._panel = panel
        self._alt, self._widgets = alt, widgets
        self._html = widgets.HTML()
        self._message = widgets.HTML()
        self._buttons = widgets.HBox()
        self._charts = widgets.Box(layout=widgets.Layout(flex_flow="row wrap"))
        self.box = widgets.VBox([self._html, self._buttons, self._message, self._charts])
        self.box.add_class("mlcycle-panel")
        self._actions: dict[str, Action] = {}
        self._drawn: tuple[tuple[str, str], ...] = ()
        self._specs: list[dict[str, Any]] = []
        self._stop = threading.Event()
        if not self._refresh():
            threading.Thread(target=self._keep_fresh, name="panel-refresh", daemon=True).start()

    def close(self) -> None:
        self._stop.set()
        self.box.close()

    def _keep_fresh(self) -> None:
        while not self._stop.wait(REFRESH_SECONDS):
            try:
                if self._refresh():
                    return
            except Exception as failure:  # a panel that cannot read says so and tries again
                self._message.value = f"<i>cannot be refreshed: {type(failure).__name__}</i>"

    def _refresh(self) -> bool:
        state = self._panel.snapshot()
        html = self._panel.region(self._panel.html(state))
        if html != self._html.value:
            self._html.value = html
        self._draw_buttons(self._panel.actions(state))
        self._draw_charts(self._panel.charts(state))
        return self._panel.finished(state)

    def _draw_buttons(self, actions: Sequence[Action]) -> None:
        self._actions = {action.label: action for action in actions}
        drawn = tuple((action.label, action.tone) for action in actions)
        if drawn == self._drawn:
            return
        buttons = []
        for label, tone in drawn:
            button = self._widgets.Button(description=label, button_style=tone, tooltip=label)
            button.on_click(lambda _, label=label: self._press(label))
            buttons.append(button)
        self._buttons.children = buttons
        self._drawn = drawn

    def _press(self, label: str) -> None:
        action = self._actions.get(label)  # of the state shown now, which the button may be older than
        if action is None:
            return
        from mlcycle_nb.errors import MLCycleError

        try:
            action.callback()
        except MLCycleError as refused:
            self._message.value = f"<b>{escape(refused)}</b>"
        else:
            self._message.value = f"<i>{escape(action.label)}: asked for</i>"

    def _draw_charts(self, charts: Sequence[Any]) -> None:
        specs = [spec(chart) for chart in charts]
        children = list(self._charts.children)
        for position, (chart, new) in enumerate(zip(charts, specs, strict=True)):
            if position >= len(children):
                children.append(self._alt.JupyterChart(chart))
            elif position >= len(self._specs) or self._specs[position] != new:
                children[position].chart = chart
        children = children[: len(specs)]
        if len(children) != len(self._charts.children):
            self._charts.children = children
        self._specs = specs
