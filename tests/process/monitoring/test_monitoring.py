"""Monitoring whole: the real supervisor, worker and prediction log; planted drift, null traffic and kill -9."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.errors import InvalidInput, NotFound, Refused
from mlcycle_nb.monitoring.worker_client import PROCESS
from mlcycle_nb.supervisor.start import find_supervisor
from mlcycle_nb.workspace import Workspace
from tests.process.monitoring.conftest import Served, kill_supervisor, rows

pytestmark = pytest.mark.timeout(180)
BUILT_IN = ("ks", "chi_squared")


class TestVerdicts:
    def test_null_traffic_raises_nothing_and_planted_drift_one_alert_that_names_it(
        self, workspace: Workspace, served: Served, until
    ) -> None:
        monitoring = workspace.monitoring
        served.send(rows(50, 1) + 9)  # before the start: in no window
        handle = monitoring.start_monitoring("credit", window=100, detectors=BUILT_IN)
        for seed in range(10):
            served.send(rows(100, 100 + seed))
        served.send(rows(200, 3) + 9, mirrored=True)
        status = handle.wait_windows(10, 60)
        verdicts = monitoring.windows("credit")

        assert [v.index for v in verdicts] == list(range(1, 11))
        assert {v.outcome for v in verdicts} == {"passed"}
        assert monitoring.alerts() == []
        assert status.health == "healthy"

        drifted = rows(437, 4)
        drifted[:, [1, 3]] += 1.5
        served.send(drifted)
        handle.wait_windows(14, 60)
        until(lambda: monitoring.status("credit").versions[0].waiting == 37)
        [alert] = [a for a in monitoring.alerts() if a.kind == "data_drift"]

        assert alert.phase == "firing"
        assert set(alert.subjects) == {"income", "score"}
        assert "waiting 37/100" in repr(handle.status)
        [told] = until(lambda: [n for n in monitoring.notifications(alert.id) if n.channel == "log"])
        until(lambda: (workspace.home / "logs" / "alerts.log").exists())
        assert json.loads((workspace.home / "logs" / "alerts.log").read_text().splitlines()[0])["key"]
        assert told.message["subjects"] in {"income, score", "score, income"}

        taken = monitoring.acknowledge(alert.id)
        served.send(rows(300, 5))
        handle.wait_windows(17, 60)
        over = until(lambda: [a for a in monitoring.alerts() if a.id == alert.id and a.phase == "resolved"])
        assert taken.phase == "acknowledged"
        assert over[0].resolved_at is not None

    def test_the_panel_has_three_faces_with_the_same_numbers(self, workspace: Workspace, served: Served) -> None:
        monitoring = workspace.monitoring
        handle = monitoring.start_monitoring("credit", window=100, detectors=BUILT_IN)
        moved = rows(200, 8)
        moved[:, 0] -= 1.5
        ids = served.send(moved)
        handle.wait_windows(2, 60)
        monitoring.record_labels("credit", dict.fromkeys(ids, "yes"))
        panel = monitoring.panel("credit")
        state = panel.snapshot()
        text, html, charts = panel.text(state), panel.html(state), panel.charts(state)
        specs = [chart.to_dict() for chart in charts]

        assert "age" in text
        assert "2 windows of 100 rows: 2 drifted" in text
        assert "2 windows of 100 rows: 2 drifted" in html
        assert "accuracy" in html
        assert [spec["title"] for spec in specs][:2] == ["Drift by feature and window", "age"]
        cells = specs[0]["datasets"] if "datasets" in specs[0] else specs[0]["data"]
        assert "age" in json.dumps(cells)
        assert "data:image/svg+xml" in panel.to_html()
        assert len(panel.widget().state["charts"]) == len(charts)
        panel.close()
        assert {action.label for action in panel.actions(state)} >= {"Stop monitoring"}

    def test_alibi_detect_judges_in_the_worker_and_its_licence_is_said(
        self, workspace: Workspace, served: Served, caplog: pytest.LogCaptureFixture
    ) -> None:
        pytest.importorskip("alibi_detect")
        handle = workspace.monitoring.start_monitoring("credit", window=200)
        moved = rows(200, 9)
        moved[:, 2] *= 3
        served.send(moved)
        handle.wait_windows(1, 120)
        [verdict] = workspace.monitoring.windows("credit")

        assert {f.detector for f in verdict.findings} == {"alibi_ks", "alibi_chi_squared"}
        assert [f.name for f in verdict.drifted("data")] == ["debt"]
        assert "Business Source License" in caplog.text
        assert "Business Source License" in repr(handle)
        log = (workspace.home / "logs" / "monitor-worker.log").read_text()
        assert log.count("Business Source License") == 1


class TestLife:
    def test_the_same_call_attaches_and_another_begins_anew(self, workspace: Workspace, served: Served) -> None:
        monitoring = workspace.monitoring
        first = monitoring.start_monitoring("credit", window=50, detectors=BUILT_IN)
        served.send(rows(60, 1))
        first.wait_windows(1, 60)
        again = monitoring.start_monitoring("credit", window=50, detectors=BUILT_IN)
        assert again.status.windows == 1

        other = monitoring.start_monitoring("credit", window=25, detectors=BUILT_IN, since="beginning")
        status = other.wait_windows(2, 60)
        assert status.monitor.generation == 2
        assert [v.index for v in monitoring.windows("credit")] == [1, 2]

    def test_stopping_ends_the_worker(self, workspace: Workspace, served: Served, until) -> None:
        monitoring = workspace.monitoring
        handle = monitoring.start_monitoring("credit", window=50, detectors=BUILT_IN)
        served.send(rows(50, 1))
        handle.wait_windows(1, 60)
        assert workspace.context.processes.names("monitor") == [PROCESS]
        handle.stop()
        until(lambda: monitoring.status("credit").monitor.phase == "stopped")  # it says so while it stops as well

        assert monitoring.status("credit").health == "stopped"
        assert workspace.context.processes.names("monitor") == []
        with pytest.raises(Refused, match="is stopped"):
            monitoring.stop_monitoring("credit")

    def test_a_worker_that_dies_is_started_again_and_no_window_is_lost(
        self, workspace: Workspace, served: Served
    ) -> None:
        handle = workspace.monitoring.start_monitoring("credit", window=50, detectors=BUILT_IN)
        served.send(rows(50, 1))
        handle.wait_windows(1, 60)
        workspace.context.processes.stop(PROCESS, 0.0)
        served.send(rows(100, 2))
        handle.wait_windows(3, 60)

        assert [v.index for v in workspace.monitoring.windows("credit")] == [1, 2, 3]

    def test_a_dead_supervisor_is_a_dead_monitor_and_the_next_one_goes_on(
        self, workspace: Workspace, served: Served
    ) -> None:
        handle = workspace.monitoring.start_monitoring("credit", window=50, detectors=BUILT_IN)
        served.send(rows(70, 1))
        handle.wait_windows(1, 60)
        kill_supervisor(workspace.home)
        assert handle.status.health == "monitor dead"

        served.send(rows(80, 2))
        workspace.context.ensure_supervisor()
        handle.wait_windows(3, 60)
        assert [(v.index, v.rows) for v in workspace.monitoring.windows("credit")] == [(1, 50), (2, 50), (3, 50)]

    def test_bad_arguments_are_refused_before_anything_changes(self, workspace: Workspace, served: Served) -> None:
        monitoring = workspace.monitoring
        for arguments, error in [
            ({"window": 5}, "window must be from 20"),
            ({"window": True}, "whole number"),
            ({"q": float("nan")}, "between 0 and 1"),
            ({"effect_bounds": {"ks": float("inf")}}, "finite"),
            ({"effect_bounds": {"wassersten": 0.1}}, "did you mean 'wasserstein'"),
            ({"since": "yesterday"}, "number and a unit"),
        ]:
            with pytest.raises(InvalidInput, match=error):
                monitoring.start_monitoring("credit", **arguments)
        for call, error in [
            (lambda: monitoring.start_monitoring("credti"), "did you mean 'credit'"),
            (lambda: monitoring.start_monitoring("credit", environment="prod"), "no such environment"),
            (lambda: monitoring.start_monitoring("credit", detectors="kss"), "no detector of this name"),
        ]:
            with pytest.raises(NotFound, match=error):
                call()
        with pytest.raises(InvalidInput, match="write credit"):
            monitoring.start_monitoring("credit/1")

        assert monitoring.monitors() == []


class Receiver(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.failures = 0
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.keys.append(self.headers["Idempotency-Key"])
        self.server.failures -= 1
        self.send_response(503 if self.server.failures >= 0 else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class TestKilledSupervisor:
    """Between an alert and its delivery the supervisor dies: it is delivered at least once, under one key."""

    @pytest.fixture
    def workspace(self, tmp_path: Path, receiver: Receiver) -> Iterator[Workspace]:
        secret = tmp_path / "secret"
        secret.write_text("a-secret-of-more-than-24-bytes!!")
        secret.chmod(0o600)
        settings = {
            "monitoring": {
                "webhook_url": f"http://127.0.0.1:{receiver.server_address[1]}/",
                "webhook_secret_file": str(secret),
                "webhook_allowed_hosts": ["127.0.0.1"],
            }
        }
        opened = Workspace.open(tmp_path / ".mlcycle", settings=settings)
        yield opened
        opened.down()
        opened.close()

    @pytest.mark.parametrize(
        "point",
        [
            "monitor.after_verdict",
            "alert.after_firing",
            "monitor.after_alerts",
            "alert.after_queued",
            "notification.before_delivery",
            "notification.after_delivery",
        ],
    )
    def test_at_every_point(
        self,
        workspace: Workspace,
        served: Served,
        receiver: Receiver,
        until,
        monkeypatch: pytest.MonkeyPatch,
        point: str,
    ) -> None:
        monitoring = workspace.monitoring
        with monkeypatch.context() as patch:
            patch.setenv("MLCYCLE_CRASH_AT", point)
            monitoring.start_monitoring("credit", window=100, detectors=BUILT_IN)
        moved = rows(100, 4)
        moved[:, 0] += 2
        served.send(moved)
        until(lambda: find_supervisor(workspace.home) is None)
        workspace.context.ensure_supervisor()
        [alert] = until(lambda: [a for a in monitoring.alerts() if a.kind == "data_drift"])
        until(lambda: {n.phase for n in monitoring.notifications(alert.id)} == {"delivered"})

        assert set(receiver.keys) >= {f"{alert.id}-1"}
        assert {key for key in receiver.keys if key.startswith(alert.id)} == {f"{alert.id}-1"}
        assert [(v.index, v.outcome) for v in monitoring.windows("credit")] == [(1, "failed")]
        assert alert.subjects == ("age",)

    def test_a_sink_that_fails_first(self, workspace: Workspace, served: Served, receiver: Receiver, until) -> None:
        receiver.failures = 2
        workspace.monitoring.start_monitoring("credit", window=100, detectors=BUILT_IN)
        moved = rows(100, 4)
        moved[:, 0] += 2
        served.send(moved)
        [alert] = until(lambda: [a for a in workspace.monitoring.alerts() if a.kind == "data_drift"])
        until(lambda: {n.phase for n in workspace.monitoring.notifications(alert.id)} == {"delivered"})

        assert receiver.keys.count(f"{alert.id}-1") >= 1
        assert len(receiver.keys) >= 3
