"""What was watched live and is replayed gives the same windows, verdicts and alerts; nobody is told of the replay."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from IPython.core.interactiveshell import InteractiveShell

from mlcycle_nb.cli import main
from mlcycle_nb.errors import InvalidInput, NotFound
from mlcycle_nb.monitoring.magic import MonitoringMagics
from mlcycle_nb.monitoring.records import Alert, Notification
from mlcycle_nb.serving.prediction_log import read_predictions
from mlcycle_nb.workspace import Workspace
from tests.process.monitoring.conftest import Served, rows

pytestmark = pytest.mark.timeout(180)
BUILT_IN = ("ks", "chi_squared")


def traffic(served: Served) -> dict[str, int]:
    """Five windows of a hundred rows without drift, two with it, four without, and some rows more."""
    answers: dict[str, int] = {}
    for seed in range(5):
        answers |= served.send(rows(100, 100 + seed))
    moved = rows(200, 4)
    moved[:, [1, 3]] += 1.5
    answers |= served.send(moved)
    for seed in range(4):
        answers |= served.send(rows(100, 200 + seed))
    served.send(rows(100, 9) + 9, mirrored=True)
    return answers | served.send(rows(37, 300))


def said(windows: Any) -> list[Any]:
    """What a window says, without the moment at which somebody looked."""
    return [replace(window, time=datetime(2026, 1, 1, tzinfo=UTC)) for window in windows]


def alerted(alerts: Any) -> list[tuple[Any, ...]]:
    found = [(one.kind, one.phase, one.subjects, one.versions, one.summary) for one in alerts]
    return sorted(found)


def test_live_and_replayed_say_the_same(workspace: Workspace, served: Served, until: Any, tmp_path: Path) -> None:
    monitoring = workspace.monitoring
    handle = monitoring.start_monitoring("credit", window=100, detectors=BUILT_IN, channels=["log"])
    answers = traffic(served)
    handle.wait_windows(11, 60)
    wrong = {key: 1 - label for key, label in list(answers.items())[:300]}
    monitoring.record_labels("credit", wrong)
    until(lambda: len(monitoring.alerts()) >= 2)
    live, alerts = monitoring.windows("credit"), monitoring.alerts()
    found = monitoring.replay("credit", "24h")
    table = read_predictions(workspace.home / "predictions", "production", "credit", mirrored=None)
    pq.write_table(table, tmp_path / "recorded.parquet")
    from_file = monitoring.replay("credit", tmp_path / "recorded.parquet")

    assert len(live) == 11
    assert [window.outcome for window in live][5:7] == ["failed", "failed"]
    assert said(found.windows) == said(live)
    assert said(from_file.windows) == said(live)
    assert {one[0] for one in alerted(alerts)} >= {"data_drift", "model_drift"}
    assert alerted(found.alerts) == alerted(alerts) == alerted(from_file.alerts)
    assert (found.rows, found.waiting) == (1137, 37)
    assert [alert.id for alert in monitoring.alerts()] == [alert.id for alert in alerts]
    assert {message.alert for message in monitoring.notifications()} <= {alert.id for alert in alerts}
    assert len(monitoring.windows("credit")) == 11

    drift = next(alert for alert in found.alerts if alert.kind == "data_drift")
    assert drift.fired_at == found.windows[5].time
    assert found.windows[5].time.isoformat() == live[5].last_time
    assert drift.resolved_at is not None
    assert drift.resolved_at > found.windows[6].time
    [measured] = {one.version: one for one in found.performance}.values()
    assert (measured.labelled, measured.value, measured.outcome) == (300, 0.0, "failed")


def test_from_a_terminal(workspace: Workspace, served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code says whether an alert would have fired."""
    traffic(served)
    replay = ("replay", "credit", "24h", "--window", "100", "--detector", "ks")
    codes = [main(["--home", str(workspace.home), "--json", *replay, *more]) for more in ((), ("--confirm", "3"))]
    first, second = map(json.loads, capsys.readouterr().out.splitlines())

    assert codes == [1, 0]
    assert (first["rows"], first["windows"], first["waiting"]) == (1137, 11, 37)
    assert {alert["kind"] for alert in first["alerts"]} >= {"data_drift"}
    assert second["alerts"] == []


def test_without_a_monitor_nothing_is_left_and_the_result_has_its_faces(workspace: Workspace, served: Served) -> None:
    traffic(served)
    shell = InteractiveShell()
    shell.register_magics(MonitoringMagics(shell, lambda: workspace))
    try:
        run = shell.find_line_magic("monitor")
        found = run("credit --replay 24h --window 100 --detector ks --detector chi_squared --into found")
        for line, error in [
            ("credit --replay yesterday", "a time such as 24h"),
            ("credit --replay nothing.parquet", "no such recording"),
            ("credit --replay 24h --show", "goes without --show"),
            ("credit --replay 24h --since 1h", "goes without --since"),
            ("credit --replay 24h --window 5", "window must be from 20"),
        ]:
            with pytest.raises(InvalidInput, match=error):
                run(line)
        with pytest.raises(NotFound, match="credit"):
            run("kredit --replay 24h")
    finally:
        shell.history_manager.end_session()
    frame = found.to_frame()
    text, html = repr(found), found._repr_mimebundle_()["text/html"]
    specs = [chart.to_dict() for chart in found.panel().charts(found.panel().snapshot())]

    assert shell.user_ns["found"] is found
    assert workspace.store.find(Alert) == workspace.store.find(Notification) == workspace.monitoring.monitors() == []
    assert workspace.context.processes.names("monitor") == []
    assert len(frame) == sum(len(window.findings) for window in found.windows)
    assert set(frame[(frame["state"] == "drift") & (frame["family"] == "data")]["column"]) == {"income", "score"}
    assert frame[frame["state"] == "drift"]["window"].min() == 6
    for face in (text, html):
        assert "1137 rows, 11 windows of 100" in face
        assert "income" in face
        assert "nothing is stored" in face
    assert "Drift by feature and window" in json.dumps(specs)
    assert found.panel().actions(found.panel().snapshot()) == ()
