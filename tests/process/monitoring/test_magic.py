"""The magics of monitoring in a real IPython shell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from mlcycle_nb.errors import InvalidInput, NotFound
from mlcycle_nb.monitoring.magic import MonitoringMagics
from mlcycle_nb.workspace import Workspace
from tests.process.monitoring.conftest import Served, rows

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def run(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    shell = InteractiveShell()
    shell.register_magics(MonitoringMagics(shell, lambda: workspace))
    yield lambda name, line="": shell.find_line_magic(name)(line)
    shell.history_manager.end_session()


def test_from_monitor_to_label(run: Any, served: Served, tmp_path: Path) -> None:
    assert repr(run("alerts")) == "no alerts"
    handle = run("monitor", "credit --env production --window 100 --detector ks --since beginning --channel log")
    moved = rows(200, 5)
    moved[:, 4] += 2
    answers = served.send(moved)
    handle = run("monitor", "credit --window 100 --detector ks --channel log --wait-windows 2")
    [alert] = [a for a in run("alerts") if a.kind == "data_drift"]

    assert handle.status.windows == 2
    assert "tenure" in repr(handle)
    assert alert.subjects == ("tenure",)
    assert "tenure" in run("alerts", "--model credit")._repr_html_()
    assert run("alerts", f"ack {alert.id} --reason looking")[0].phase == "acknowledged"
    with pytest.raises(InvalidInput, match="reason is missing"):
        run("alerts", f"resolve {alert.id}")
    assert run("alerts", f"resolve {alert.id} --reason 'new season'")[0].phase == "resolved"

    [made] = run("silence", "credit --for 2h --kind data_drift --reason 'new season'")
    assert [s.id for s in run("silence")] == [made.id]
    assert run("silence", f"--end {made.id}")[0].phase == "ended"
    with pytest.raises(InvalidInput, match="did you mean 'data_drift'"):
        run("silence", "credit --for 2h --kind datadrift --reason x")

    lines = [f"{key},{('no', 'yes')[label]}" for key, label in answers.items()]
    (tmp_path / "labels.csv").write_text("prediction_id,label\n" + "\n".join(lines) + "\n")
    [found] = run("label", "credit --from labels.csv")
    assert (found.value, found.coverage) == (1.0, 1.0)
    assert "accuracy" in repr(run("label", "credit"))

    run("monitor", "credit --stop")


def test_refusals_name_what_is_wrong(run: Any, served: Served) -> None:
    for name, line, error in [
        ("monitor", "credit --windw 100", "did you mean '--window'"),
        ("monitor", "credit --wait-windows 0", "at least 1"),
        ("monitor", "", "model"),
        ("alerts", "ack", "which alert is missing"),
        ("silence", "credit --reason x", "--for DURATION is missing"),
        ("silence", "credit --for 3fortnights --reason x", "number and a unit"),
        ("label", "credit --from nothing.csv", "no such file"),
    ]:
        with pytest.raises(InvalidInput, match=error):
            run(name, line)
    for name, line, error in [
        ("monitor", "credit --show", "no monitor"),
        ("alerts", "ack alert-none", "no alert"),
        ("monitor", "kredit", "kredit"),
    ]:
        with pytest.raises(NotFound, match=error):
            run(name, line)


def test_maintenance_holds_what_an_alert_does_and_what_cannot_be_done_is_told(
    run: Any, served: Served, workspace: Workspace, until: Any
) -> None:
    """The whole way, with the real supervisor: a window in force, drift in it, the window ended by hand."""
    now = workspace.clock.now()
    with pytest.raises(InvalidInput, match="did you mean 'accuracy'"):
        run("monitor", "credit --on-alert acuracy=rollback")
    with pytest.raises(InvalidInput, match="--at TIME is missing"):
        run("maintenance", "--for 2h")
    run("monitor", "credit --detector ks --since beginning --channel log --on-alert drift=rollback accuracy=pause")
    start = now.strftime("%Y-%m-%dT%H:%M")
    [window] = run("maintenance", f"credit --at {start} --for 2h --reason 'load test'")
    assert "in force until" in repr(run("maintenance"))
    moved = rows(100, 5)
    moved[:, 4] += 2
    served.send(moved)
    run("monitor", "credit --show --wait-windows 1")
    [alert] = [a for a in run("alerts") if a.kind == "data_drift"]
    [held] = run("alerts", "actions")
    assert held.phase == "queued"
    assert workspace.monitoring.notifications(alert.id) == []

    assert run("maintenance", f"--end {window.id}")[0].phase == "ended"
    until(lambda: run("alerts", "actions")[0].phase == "refused")
    until(lambda: {n.phase for n in workspace.monitoring.notifications(alert.id)} == {"delivered"})
    assert "nothing is deployed" in repr(run("alerts", "actions"))
    assert repr(run("maintenance")) == "no maintenance is planned"
