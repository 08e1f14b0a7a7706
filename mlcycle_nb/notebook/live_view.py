"""The live face of a panel: one widget, which is told what changed and nothing else."""

from __future__ import annotations

import functools
import json
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.notebook.charts import spec
from mlcycle_nb.notebook.html import escape
from mlcycle_nb.notebook.increments import html_change, rows_change, table_of

if TYPE_CHECKING:
    from mlcycle_nb.notebook.panel import Action, Panel

_TEND_SECONDS = 1.0
_ALIVE_SECONDS = 5.0
_ASSETS = Path(__file__).parent / "assets"


@functools.cache
def _widget_class() -> Any:
    import anywidget
    import traitlets

    class PanelWidget(anywidget.AnyWidget):
        """A panel in the browser; `state` is what a page that comes later begins with."""

        _esm = (_ASSETS / "panel.js").read_text()
        _css = (_ASSETS / "panel.css").read_text()
        key = traitlets.Unicode().tag(sync=True)
        library = traitlets.Unicode().tag(sync=True)
        # Changed in place, so that it is not sent again: the page hears of changes by messages.
        state = traitlets.Dict().tag(sync=True)

    return PanelWidget


def split_chart(chart: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return a chart's specification without its rows, and the rows by the names that took their place."""
    whole = spec(chart)
    named = whole.pop("datasets", {})
    tables: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}

    def take(rows: Any, key: str) -> dict[str, str]:
        if key not in names:
            names[key] = f"rows{len(names)}"
            tables[names[key]] = table_of(rows)
        return {"name": names[key]}

    def walk(part: Any) -> Any:
        if isinstance(part, list):
            return [walk(each) for each in part]
        if not isinstance(part, dict):
            return part
        found = {key: walk(value) for key, value in part.items() if key != "data"}
        data = part.get("data")
        if isinstance(data, dict) and isinstance(data.get("values"), list):
            found["data"] = take(data["values"], f"inline-{len(names)}")
        elif isinstance(data, dict) and data.get("name") in named:
            found["data"] = take(named[data["name"]], data["name"])
        elif data is not None:
            found["data"] = data
        return found

    return walk(whole), tables


class LiveView:
    """The widget of one panel and the thread that keeps it fresh.

    Parameters
    ----------
    panel : Panel
    every_seconds : float
        Time between two looks at the state.
    """

    def __init__(self, panel: Panel[Any], every_seconds: float) -> None:
        self._panel, self._every = panel, every_seconds
        self._lock = threading.RLock()
        self._actions: dict[str, Action] = {}
        self._displays: list[Any] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._tended_at = 0.0
        self._alive_at = time.monotonic() + _ALIVE_SECONDS
        first, over = self._look()
        self.widget = _widget_class()(key=uuid.uuid4().hex, state={**first, "message": "", "number": 0})
        self.widget.on_msg(self._heard)
        _hear_beside_a_busy_cell(self.widget)
        if first["charts"] or not over:
            self._keep_fresh(over)

    def refresh(self) -> bool:
        """Look once and tell the page what changed; return whether all is over."""
        look, over = self._look()
        message = self.widget.state["message"]
        self._tell({**look, "message": "" if message.startswith(_TROUBLE) else message})
        return over

    def close(self) -> None:
        """Stop refreshing and release the widget."""
        self._stop.set()
        self.widget.close()

    def displayed(self, handle: Any) -> None:
        """Note where the panel is shown: what is saved there is brought up to date when all is over."""
        self._displays.append(handle)

    def say(self, html: str) -> None:
        """Show a line under the buttons."""
        self._tell({**self.widget.state, "message": html})

    # -- looking ---------------------------------------------------------------------------------------------

    def _look(self) -> tuple[dict[str, Any], bool]:
        panel = self._panel
        state = panel.snapshot()
        before, _, after = panel.html(state).partition(panel.CHARTS_HERE)
        actions = panel.actions(state)
        self._actions = {action.label: action for action in actions}
        charts = []
        for chart in panel.charts(state):
            shape, tables = split_chart(chart)
            charts.append({"spec": shape, "data": tables})
        look = {
            "label": panel.title(),
            "before": before,
            "after": after,
            "buttons": [[action.label, action.tone] for action in actions],
            "charts": charts,
            "over": panel.finished(state),
        }
        return json.loads(json.dumps(look)), bool(look["over"])

    def _keep_fresh(self, over: bool = False) -> None:
        self._thread = threading.Thread(
            target=self._refresh_until_over, args=(over,), name="panel-refresh", daemon=True
        )
        self._thread.start()

    def _bring_library(self) -> None:
        """Give the page what draws charts, once there is one: making it takes two seconds, which no cell waits for."""
        if self.widget.state["charts"] and not self.widget.library:
            from mlcycle_nb.notebook.vega import library

            self.widget.library = library().model_id

    def _refresh_until_over(self, over: bool) -> None:
        self._bring_library()
        while not over and not self._stop.wait(self._every):
            try:
                if time.monotonic() >= self._tended_at:
                    self._tended_at = time.monotonic() + _TEND_SECONDS
                    self._panel.tend()
                over = self.refresh()
                self._bring_library()
                if over:
                    self._renew_saved()
            except Exception as failure:  # a panel that cannot read says so and tries again
                over = False
                self.say(f"{_TROUBLE}{type(failure).__name__}</i>")

    def _renew_saved(self) -> None:
        """Put the last picture where the panel is shown: a saved notebook has no widget, only that."""
        if self._displays:
            bundle = self._panel._repr_mimebundle_()
            for handle in self._displays:
                handle.update(bundle, raw=True)

    # -- telling ---------------------------------------------------------------------------------------------

    def _tell(self, look: Mapping[str, Any]) -> None:
        with self._lock:
            change = view_change(self.widget.state, look)
            if not change:
                if time.monotonic() >= self._alive_at:
                    self._alive_at = time.monotonic() + _ALIVE_SECONDS
                    self.widget.send({"alive": 1})  # so that a page can tell a quiet kernel from one that is gone
                return
            self._alive_at = time.monotonic() + _ALIVE_SECONDS
            number = self.widget.state["number"] + 1
            self.widget.state.update({**look, "number": number})
            self.widget.send({**change, "number": number})

    def _heard(self, widget: Any, content: Mapping[str, Any], buffers: Any) -> None:
        if content.get("ask") == "full":
            with self._lock:
                widget.send({"full": dict(widget.state)})
        elif "press" in content:
            self.press(str(content["press"]))

    def press(self, label: str) -> None:
        """Do what the button says; one whose action has gone meanwhile does nothing."""
        action = self._actions.get(label)  # of the state shown now, which the button may be older than
        if action is None:
            return
        try:
            action.callback()
        except MLCycleError as refused:
            self.say(f"<b>{escape(refused)}</b>")
            return
        self.say(f"<i>{escape(action.label)}: asked for</i>")
        if self._thread is not None and not self._thread.is_alive() and not self._stop.is_set():
            self._keep_fresh()


_TROUBLE = "<i>cannot be refreshed: "


def _hear_beside_a_busy_cell(widget: Any) -> None:
    """Have what the page says heard by the subshell that the page names, so that buttons work while a cell runs.

    Since 7.4 ipykernel hands it to the shell that last wrote to the page instead, which is the busy one.
    """
    if widget.comm is not None:
        widget.comm._reply_subshell_for = None


def view_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a page that shows `old` has to be told to show `new`."""
    change: dict[str, Any] = {}
    for part in ("before", "after"):
        pieces = html_change(old[part], new[part])
        if pieces is not None:
            change[part] = pieces
    for part in ("label", "buttons", "message", "over"):
        if old[part] != new[part]:
            change[part] = new[part]
    if [chart["spec"] for chart in old["charts"]] != [chart["spec"] for chart in new["charts"]]:
        change["charts"] = new["charts"]
        return change
    moved: list[list[Any]] = []
    for place, (before, after) in enumerate(zip(old["charts"], new["charts"], strict=True)):
        sets = {name: _table_change(before["data"][name], table) for name, table in after["data"].items()}
        sets = {name: found for name, found in sets.items() if found is not None}
        if sets:
            moved.append([place, sets])
    if moved:
        change["data"] = moved
    return change


def _table_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if old["fields"] != new["fields"]:
        return new
    return rows_change(old["rows"], new["rows"])
