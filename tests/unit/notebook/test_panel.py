"""Panels: one state, three faces; the live one keeps itself fresh and its buttons do what they say now."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from mlcycle_nb.errors import Refused
from mlcycle_nb.notebook import panel as panel_module
from mlcycle_nb.notebook.handle import Handle
from mlcycle_nb.notebook.html import Markup, escape
from mlcycle_nb.notebook.panel import Action, Panel

pytestmark = pytest.mark.timeout(60)


@dataclass
class State:
    step: int = 0
    over: bool = False
    broken: bool = False
    target: str = "first"
    labels: tuple[str, ...] = ("promote",)
    pressed: list[str] = field(default_factory=list)


class StepPanel(Panel[State]):
    """The smallest panel that uses everything."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state

    def title(self) -> str:
        return 'steps of "<b>"'

    def snapshot(self) -> State:
        if self.state.broken:
            raise OSError("gone")
        return self.state

    def text(self, state: State) -> str:
        return f"step {state.step}"

    def html(self, state: State) -> str:
        return Markup(f"<p>{escape(self.text(state))}</p>")

    def charts(self, state: State) -> Sequence[Any]:
        import altair as alt

        points = alt.Data(values=[{"x": i, "y": i} for i in range(state.step + 1)])
        return [alt.Chart(points, title="progress").mark_line().encode(x="x:Q", y="y:Q")] if state.step < 9 else []

    def actions(self, state: State) -> Sequence[Action]:
        target = state.target  # a panel's actions are about the state that they were made from
        return [Action(label, lambda: self._press(target)) for label in state.labels]

    def finished(self, state: State) -> bool:
        return state.over

    def _press(self, target: str) -> None:
        if target == "refused":
            raise Refused("no <i>", remedy="ask")
        self.state.pressed.append(target)


@pytest.fixture
def panel(monkeypatch: pytest.MonkeyPatch) -> Iterator[StepPanel]:
    monkeypatch.setattr(panel_module, "REFRESH_SECONDS", 0.01)
    made = StepPanel(State())
    yield made
    made.close()
    until(lambda: "panel-refresh" not in {thread.name for thread in threading.enumerate()}, "the refreshing ends")


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"did not happen: {what}"
        time.sleep(0.01)


class TestStaticFaces:
    """What a saved notebook shows without a kernel, and a terminal without a browser."""

    def test_text(self, panel: StepPanel) -> None:
        """Plain, and of this moment."""
        panel.state.step = 3

        assert repr(panel) == "step 3"

    def test_html_with_charts_as_images(self, panel: StepPanel) -> None:
        """A region that says its name, with drawn charts; no script, and nothing from a network."""
        html = panel.to_html()

        assert html.startswith('<div role="region" aria-label="steps of &quot;&lt;b&gt;&quot;"><p>step 0</p>')
        assert html.count('<img alt="progress"') == 1
        assert "data:image/svg+xml;base64," in html
        assert "<script" not in html
        assert "http" not in html

    def test_headless_bundle(self, panel: StepPanel, monkeypatch: pytest.MonkeyPatch) -> None:
        """Text and HTML, no widget that nobody could draw."""
        monkeypatch.setenv("MLCYCLE_LIVE", "0")
        bundle = panel._repr_mimebundle_()

        assert set(bundle) == {"text/plain", "text/html"}

    def test_a_handle_shows_its_panel(self, panel: StepPanel, monkeypatch: pytest.MonkeyPatch) -> None:
        """Made once."""
        monkeypatch.setenv("MLCYCLE_LIVE", "0")
        handle = Handle("job:1", lambda: 1, lambda _: True, lambda: panel)

        assert repr(handle) == "step 0"
        assert handle._repr_mimebundle_() == panel._repr_mimebundle_()
        assert handle.panel() is panel

    @pytest.mark.parametrize("face", ["title", "snapshot"])
    def test_a_panel_without_a_face_says_which(self, face: str) -> None:
        """A mistake of a stage's author."""

        class Bare(Panel[int]):
            pass

        with pytest.raises(TypeError, match=f"Bare has no {face}"):
            getattr(Bare(), face)()


class TestLiveFace:
    """A widget, driven as the browser would drive it."""

    def test_the_live_bundle_has_all_three(self, panel: StepPanel, monkeypatch: pytest.MonkeyPatch) -> None:
        """A widget for the front end; HTML and text for what is saved."""
        monkeypatch.setenv("MLCYCLE_LIVE", "1")
        bundle = panel._repr_mimebundle_()

        assert {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"} <= set(bundle)
        assert bundle["text/plain"] == "step 0"

    def test_it_follows_the_state(self, panel: StepPanel) -> None:
        """Text and chart; the page is told what changed, and not the specification again."""
        widget, sent = watched(panel)
        panel.state.step = 4
        until(lambda: any("data" in message for message in sent), "the new step is told")
        until(lambda: "step 4" in widget.state["before"], "the new step is shown")

        assert widget.state["charts"][0]["data"]["rows0"]["rows"] == [[x, x] for x in range(5)]
        (told,) = [message for message in sent if "data" in message]
        assert told["data"] == [[0, {"rows0": {"add": [[1, [[1, 1], [2, 2], [3, 3], [4, 4]]]]}}]]
        assert "charts" not in told
        panel.state.step = 9
        until(lambda: widget.state["charts"] == [], "a chart that is no more goes")

    def test_nothing_is_sent_while_nothing_happens(self, panel: StepPanel) -> None:
        """However often it looks."""
        _, sent = watched(panel)
        looks: list[int] = []
        panel.tend = lambda: looks.append(1)  # type: ignore[method-assign]
        panel.live()._tended_at = 0.0
        until(lambda: looks, "it looked")

        assert sent == []

    def test_it_stops_reading_when_all_is_over(self, panel: StepPanel) -> None:
        """The thread ends by itself, and what is saved in the notebook is the last picture."""

        class Display:
            updates: ClassVar[list[Any]] = []

            def update(self, bundle: Any, raw: bool) -> None:
                self.updates.append((bundle, raw))

        panel.widget()
        panel.live().displayed(Display())
        panel.state.step, panel.state.over = 7, True
        until(lambda: "panel-refresh" not in {t.name for t in threading.enumerate()}, "the refreshing ends")
        ((bundle, raw),) = Display.updates

        assert raw
        assert bundle["text/plain"] == "step 7"
        assert "step 7" in bundle["text/html"]

    def test_a_state_that_cannot_be_read_is_said(self, panel: StepPanel) -> None:
        """And tried again."""
        widget, _ = watched(panel)
        panel.state.broken = True
        until(lambda: "cannot be refreshed: OSError" in widget.state["message"], "the trouble is said")
        panel.state.step, panel.state.broken = 1, False
        until(lambda: "step 1" in widget.state["before"], "it goes on")

        assert widget.state["message"] == ""

    def test_a_button_acts_and_says_so(self, panel: StepPanel) -> None:
        """It does what the magic of the same name does."""
        widget, _ = watched(panel)
        press(widget, "promote")

        assert panel.state.pressed == ["first"]
        assert widget.state["message"] == "<i>promote: asked for</i>"

    def test_a_button_acts_on_the_state_shown_now(self, panel: StepPanel) -> None:
        """Not on the one of when it was drawn: the next rollout has the same buttons."""
        widget, _ = watched(panel)
        panel.state.target = "second"

        def means_the_second() -> bool:
            press(widget, "promote")
            return panel.state.pressed[-1] == "second"

        until(means_the_second, "the button means the second")

    def test_a_refusal_is_shown_inert(self, panel: StepPanel) -> None:
        """In the panel, as one line."""
        panel.state.target = "refused"
        widget, _ = watched(panel)
        press(widget, "promote")

        assert widget.state["message"] == "<b>MLC-400: no &lt;i&gt; - ask</b>"

    def test_buttons_come_and_go(self, panel: StepPanel) -> None:
        """A button pressed in the instant after its action has gone does nothing."""
        widget, _ = watched(panel)
        panel.state.labels = ("abort",)
        until(lambda: widget.state["buttons"] == [["abort", ""]], "the other button is there")
        press(widget, "promote")

        assert panel.state.pressed == []

    def test_a_button_brings_a_panel_back_to_life(self, panel: StepPanel) -> None:
        """What was over goes on, and the panel with it."""
        widget, _ = watched(panel)
        panel.state.over = True
        until(lambda: not panel.live()._thread.is_alive(), "the refreshing ends")  # type: ignore[union-attr]
        panel.state.over = False
        press(widget, "promote")
        panel.state.step = 5
        until(lambda: "step 5" in widget.state["before"], "it follows again")

    def test_a_page_that_missed_something_gets_all(self, panel: StepPanel) -> None:
        """As after a reload in the middle of a change."""
        widget, sent = watched(panel)
        widget._handle_custom_msg({"ask": "full"}, [])

        assert sent == [{"full": widget.state}]

    def test_closing_ends_the_refreshing_and_a_new_one_can_be_made(self, panel: StepPanel) -> None:
        """As after a reload."""
        first = panel.widget()
        panel.close()

        assert panel.widget() is not first


def watched(panel: StepPanel) -> tuple[Any, list[dict[str, Any]]]:
    """Return the live widget and what it sends from now on."""
    sent: list[dict[str, Any]] = []
    widget = panel.widget()
    widget.send = lambda content, buffers=None: sent.append(json.loads(json.dumps(content)))
    return widget, sent


def press(widget: Any, label: str) -> None:
    """Do what the page does when the button is clicked."""
    widget._handle_custom_msg({"press": label}, [])
