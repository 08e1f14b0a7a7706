"""Apprise: one message a receiver, a private file, and no URL in anything that is shown or stored."""

from __future__ import annotations

import importlib.util
import json
import logging
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.errors import InvalidInput, MissingDependency, Refused
from mlcycle_nb.monitoring import channels
from mlcycle_nb.monitoring.channels import _apprise_send, apprise
from mlcycle_nb.monitoring.channels._apprise_file import read_urls
from mlcycle_nb.settings import MonitoringSettings

MESSAGE = {
    "monitor": "production/credit",
    "kind": "data_drift",
    "summary": "age moved",
    "subjects": "age",
    "alerts": "alert-1",
    "status": "firing",
}
PASSWORD = "t0ps3cret"
needs_apprise = pytest.mark.skipif(importlib.util.find_spec("apprise") is None, reason="the extra is not installed")


class Receiver(ThreadingHTTPServer):
    """Remembers what it was sent; answers with the scripted statuses, then 200."""

    daemon_threads = True

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.script: list[int] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.script.pop(0) if self.server.script else 200)
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


def written(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    file = tmp_path / "apprise.urls"
    file.write_text(text)
    file.chmod(mode)
    return file


def aimed(context: Context, file: Path) -> Context:
    monitoring = MonitoringSettings(apprise_file=str(file))
    return replace(context, settings=replace(context.settings, monitoring=monitoring))


class TestFile:
    def test_names_and_comments(self, tmp_path: Path) -> None:
        file = written(tmp_path, "# people\nops = slack://a/b/c\n\nmail=mailto://me:pw@example.com\n")

        assert read_urls(str(file)) == {"ops": "slack://a/b/c", "mail": "mailto://me:pw@example.com"}

    @pytest.mark.parametrize(
        ("text", "mode", "error", "said"),
        [
            (f"ops = json://u:{PASSWORD}@h\n", 0o644, Refused, "others may read"),
            (f"json://u:{PASSWORD}@h\n", 0o600, InvalidInput, "line 1"),
            (f"ops = json://u:{PASSWORD}@h extra\n", 0o600, InvalidInput, "line 1"),
            ("ops = json://a\nops = json://b\n", 0o600, InvalidInput, "named twice"),
            ("# nobody\n", 0o600, InvalidInput, "names no receiver"),
        ],
    )
    def test_refusals_show_no_url(self, tmp_path: Path, text: str, mode: int, error: Any, said: str) -> None:
        with pytest.raises(error, match=said) as caught:
            read_urls(str(written(tmp_path, text, mode)))

        assert PASSWORD not in str(caught.value)

    def test_without_the_package_one_line_says_how_to_get_it(
        self, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "apprise" else real(name, *a))
        aim = aimed(context, written(tmp_path, "ops = json://127.0.0.1\n"))
        with pytest.raises(MissingDependency) as caught:
            channels.resolve(["apprise"], aim.settings)

        assert "pip install 'mlcycle-nb[apprise]'" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_each_receiver_is_a_target_and_one_that_went_is_given_up(self, context: Context, tmp_path: Path) -> None:
        aim = aimed(context, written(tmp_path, "ops = json://127.0.0.1\nmail = json://127.0.0.1\n"))

        assert channels.targets("apprise", aim) == ("ops", "mail")
        assert channels.targets("log", aim) == ("",)
        gone = apprise.PLUGIN.deliver_to(aim, "k", MESSAGE, "pager")
        assert (gone.delivered, gone.retry) == (False, False)

    def test_a_file_that_went_is_waited_for(self, context: Context, tmp_path: Path) -> None:
        found = apprise.PLUGIN.deliver_to(aimed(context, tmp_path / "gone"), "k", MESSAGE, "ops")

        assert (found.delivered, found.retry) == (False, True)


@pytest.mark.timeout(120)
@needs_apprise
class TestSending:
    def test_a_message_arrives_with_its_key(
        self, context: Context, tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture, capfd: Any
    ) -> None:
        caplog.set_level(logging.DEBUG)
        port = receiver.server_address[1]
        aim = aimed(context, written(tmp_path, f"ops = json://u:{PASSWORD}@127.0.0.1:{port}/hook\n"))
        apprise.check(aim.settings.monitoring.apprise_file)
        found = apprise.PLUGIN.deliver_to(aim, "alert-1-1", MESSAGE, "ops")
        [body] = receiver.received

        assert found.delivered
        assert body["title"] == "ALERT: data_drift of production/credit"
        assert "age moved" in body["message"]
        assert "key: alert-1-1" in body["message"]
        assert body["type"] == "failure"
        assert PASSWORD not in caplog.text + "".join(capfd.readouterr()) + found.detail

    def test_a_bad_receiver_is_tried_again_and_its_url_is_never_shown(
        self, context: Context, tmp_path: Path, receiver: Receiver, capfd: Any
    ) -> None:
        receiver.script = [500]
        url = f"json://u:{PASSWORD}@127.0.0.1:{receiver.server_address[1]}/{PASSWORD}"
        found = apprise.PLUGIN.deliver_to(aimed(context, written(tmp_path, f"ops = {url}\n")), "k", MESSAGE, "ops")

        assert (found.delivered, found.retry) == (False, True)
        assert found.detail == "receiver ops: it did not go out"
        assert PASSWORD not in "".join(capfd.readouterr())

    def test_a_url_that_nothing_understands_is_refused_by_name(self, context: Context, tmp_path: Path) -> None:
        aim = aimed(context, written(tmp_path, f"ops = nosuch://u:{PASSWORD}@h\n"))
        with pytest.raises(InvalidInput, match="does not know this kind of URL") as caught:
            channels.resolve(["apprise"], aim.settings)
        found = apprise.PLUGIN.deliver_to(aim, "k", MESSAGE, "ops")

        assert PASSWORD not in str(caught.value)
        assert (found.delivered, found.retry) == (False, False)

    def test_one_that_never_answers_is_ended_by_its_alarm(
        self, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The process decides alone: the supervisor that waits for it may be gone."""
        program = (
            "import sys; from mlcycle_nb.monitoring.channels import _apprise_send as one; one.LONGEST_SECONDS = 2\n"
            "raise SystemExit(one.main())"
        )
        import subprocess
        import sys

        with socket.create_server(("127.0.0.1", 0)) as silent:
            request = {"url": f"json://127.0.0.1:{silent.getsockname()[1]}/?rto=60", "title": "t", "body": "b"}
            done = subprocess.run(
                [sys.executable, "-c", program], input=json.dumps({**request, "type": "info"}).encode(), check=False
            )

        assert done.returncode == _apprise_send.TIMED_OUT
