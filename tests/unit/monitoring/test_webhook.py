"""The webhook: signed, to allowed places only, and clear about what the receiver said."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.errors import Refused
from mlcycle_nb.monitoring.channels import CHANNELS, _destination, resolve, webhook
from mlcycle_nb.monitoring.channels._destination import is_public, parse_url
from mlcycle_nb.settings import MonitoringSettings

MESSAGE = {"monitor": "production/credit", "kind": "data_drift", "summary": "</script>\u202e", "status": "firing"}


class Receiver(ThreadingHTTPServer):
    """Remembers requests and answers with the scripted statuses, then 200."""

    daemon_threads = True

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.script: list[tuple[int, dict[str, str]]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook?team=ml"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append(({k.lower(): v for k, v in self.headers.items()} | {"path": self.path}, body))
        status, headers = self.server.script.pop(0) if self.server.script else (200, {})
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
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


def aimed(context: Context, url: str, secret: Path | str, allowed: tuple[str, ...] = ("127.0.0.1",)) -> Context:
    monitoring = MonitoringSettings(webhook_url=url, webhook_secret_file=str(secret), webhook_allowed_hosts=allowed)
    return replace(context, settings=replace(context.settings, monitoring=monitoring))


class TestDelivery:
    def test_the_receiver_can_verify_who_sent_what_when(
        self, context: Context, receiver: Receiver, keys_file: Path
    ) -> None:
        found = webhook.PLUGIN.deliver(aimed(context, receiver.url, keys_file), "alert-1-1", MESSAGE)
        headers, body = receiver.received[0]
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = hmac.new(keys_file.read_text().encode(), signed, hashlib.sha256).digest()

        assert found.delivered
        assert headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()
        assert headers["idempotency-key"] == headers["webhook-id"] == "alert-1-1"
        assert headers["path"] == "/hook?team=ml"
        assert json.loads(body) == MESSAGE
        assert b"\xe2" not in body  # what could reverse a line travels escaped

    def test_another_body_key_or_secret_gives_another_signature(self) -> None:
        base = webhook.signature("k", 1, b"{}", b"s" * 24)

        assert base != webhook.signature("k", 1, b"{ }", b"s" * 24)
        assert base != webhook.signature("j", 1, b"{}", b"s" * 24)
        assert base != webhook.signature("k", 2, b"{}", b"s" * 24)
        assert base != webhook.signature("k", 1, b"{}", b"t" * 24)

    @pytest.mark.parametrize(
        ("status", "headers", "retry", "wait"),
        [
            (500, {}, True, None),
            (503, {"Retry-After": "17"}, True, 17.0),
            (429, {"Retry-After": "3"}, True, 3.0),
            (408, {"Retry-After": "soon"}, True, None),
            (404, {"Retry-After": "17"}, False, None),
            (401, {}, False, None),
        ],
    )
    def test_refusals(
        self,
        context: Context,
        receiver: Receiver,
        keys_file: Path,
        status: int,
        headers: dict[str, str],
        retry: bool,
        wait: float | None,
    ) -> None:
        receiver.script = [(status, headers)]
        found = webhook.PLUGIN.deliver(aimed(context, receiver.url, keys_file), "k", MESSAGE)

        assert (found.delivered, found.retry, found.retry_after_seconds) == (False, retry, wait)
        assert found.detail == f"HTTP {status}"

    def test_a_redirect_is_not_followed(self, context: Context, receiver: Receiver, keys_file: Path) -> None:
        receiver.script = [(302, {"Location": receiver.url})]
        found = webhook.PLUGIN.deliver(aimed(context, receiver.url, keys_file), "k", MESSAGE)

        assert len(receiver.received) == 1
        assert not found.delivered
        assert not found.retry
        assert "redirects are not followed" in found.detail

    def test_nobody_there_is_tried_again(self, context: Context, keys_file: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        found = webhook.PLUGIN.deliver(aimed(context, f"http://127.0.0.1:{port}/", keys_file), "k", MESSAGE)

        assert (found.delivered, found.retry) == (False, True)

    @pytest.mark.timeout(30)
    def test_a_receiver_that_never_finishes_is_cut_off(
        self, context: Context, keys_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(webhook, "WHOLE_SECONDS", 0.3)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
            found = webhook.PLUGIN.deliver(aimed(context, url, keys_file), "k", MESSAGE)

        assert (found.delivered, found.retry) == (False, True)

    def test_the_address_that_was_checked_is_the_one_connected_to(
        self, context: Context, receiver: Receiver, keys_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A name that answers with another address the second time gets no second look-up."""
        asked: list[str] = []
        real = socket.getaddrinfo

        def rebinding(host: str, *arguments: Any, **named: Any) -> Any:
            if host != "hooks.example":
                return real(host, *arguments, **named)
            asked.append(host)
            return real("127.0.0.1" if len(asked) == 1 else "192.0.2.1", *arguments, **named)

        url = receiver.url.replace("127.0.0.1", "hooks.example")
        aim = aimed(context, url, keys_file, ("hooks.example",))
        monkeypatch.setattr(_destination.socket, "getaddrinfo", rebinding)
        found = webhook.PLUGIN.deliver(aim, "k", MESSAGE)

        assert found.delivered
        assert asked == ["hooks.example"]
        assert receiver.received[0][0]["host"].startswith("hooks.example")


class TestDestinations:
    @pytest.mark.parametrize(
        "url",
        [
            "file:///etc/passwd",
            "ftp://hooks.example/",
            "//hooks.example/",
            "http://169.254.169.254/",
            "http://127.1/",
            "http://[::ffff:127.0.0.1]/",
            "http://user@host@evil/",
            "https://user:pw@hooks.example/",
            "http:///#/../../etc/",
            "https://hooks.example/#frag",
            "https://hooks.example:99999/",
            "https://hooks.example\\@127.0.0.1/",
            "https://hooks example/",
            "https://hooks.exam\u0440le/",
            "https:///path",
            "",
            "http://hooks.example/",
        ],
    )
    def test_refused_without_asking_the_network(self, url: str) -> None:
        with pytest.raises(Refused, match="destination not allowed") as refused:
            parse_url(url, ())
        assert "pw" not in str(refused.value), "it is kept in records and shown"

    @pytest.mark.parametrize(
        "url",
        [
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://169.254.169.254/latest",
            "https://10.0.0.7/",
            "https://localhost/",
        ],
    )
    def test_local_addresses_are_refused_in_every_spelling(self, url: str) -> None:
        with pytest.raises(Refused, match="not a public address"):
            _destination.resolve(url, ())

    def test_a_listed_host_may_be_local(self) -> None:
        found = _destination.resolve("http://LOCALHOST:8080/x", ("localhost",))

        assert (found.secure, found.host, found.port, found.target) == (False, "localhost", 8080, "/x")
        assert found.host_header == "localhost:8080"

    @pytest.mark.parametrize(
        ("address", "public"),
        [
            ("8.8.8.8", True),
            ("2606:4700::1111", True),
            ("127.0.0.1", False),
            ("::ffff:10.0.0.1", False),
            ("2002:7f00:1::", False),
            ("64:ff9b::7f00:1", False),
            ("64:ff9b::808:808", True),
            ("fe80::1", False),
            ("fc00::1", False),
            ("100.64.0.1", False),
            ("0.0.0.0", False),
            ("224.0.0.1", False),
        ],
    )
    def test_public(self, address: str, public: bool) -> None:
        import ipaddress

        assert is_public(ipaddress.ip_address(address)) is public


class TestSecret:
    def test_it_is_needed(self, context: Context, receiver: Receiver) -> None:
        found = webhook.PLUGIN.deliver(aimed(context, receiver.url, ""), "k", MESSAGE)

        assert not found.delivered
        assert "no secret" in found.detail
        assert receiver.received == []

    def test_others_must_not_read_it(self, keys_file: Path) -> None:
        keys_file.chmod(0o644)
        with pytest.raises(Refused, match="chmod 600"):
            webhook.read_secret(str(keys_file))

    def test_it_must_be_long(self, keys_file: Path) -> None:
        keys_file.write_text("short")
        with pytest.raises(Refused, match="under 24 bytes"):
            webhook.read_secret(str(keys_file))

    def test_the_form_of_the_specification_is_read(self, keys_file: Path) -> None:
        keys_file.write_text("whsec_" + base64.b64encode(b"x" * 32).decode())
        assert webhook.read_secret(str(keys_file)) == b"x" * 32

        keys_file.write_text("whsec_***")
        with pytest.raises(Refused, match="base64"):
            webhook.read_secret(str(keys_file))

    def test_it_is_in_no_message_about_a_failure(self, context: Context, keys_file: Path) -> None:
        found = webhook.PLUGIN.deliver(aimed(context, "https://10.0.0.1/", keys_file), "k", MESSAGE)

        assert keys_file.read_text() not in found.detail


class TestChoice:
    def test_the_webhook_joins_when_it_has_an_address(self, context: Context, keys_file: Path) -> None:
        assert resolve(None, context.settings) == ("notebook", "log")
        assert resolve(None, aimed(context, "https://x/", keys_file).settings) == ("notebook", "log", "webhook")

    def test_a_webhook_without_address_and_an_unknown_channel_are_refused(self, context: Context) -> None:
        with pytest.raises(ValueError, match="no address"):
            resolve(["webhook"], context.settings)
        with pytest.raises(LookupError, match="did you mean 'webhook'"):
            resolve(["webhok"], context.settings)

    def test_listing_loads_nothing(self) -> None:
        assert CHANNELS.names() == ["apprise", "log", "notebook", "webhook"]
