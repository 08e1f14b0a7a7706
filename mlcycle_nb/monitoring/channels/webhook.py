"""A webhook: JSON over HTTP, signed with HMAC-SHA256 in the form of the Standard Webhooks specification."""

from __future__ import annotations

import base64
import binascii
import email.utils
import hashlib
import hmac
import http.client
import json
import os
import socket
import ssl
import stat
import threading
import time
from pathlib import Path

from mlcycle_nb.context import Context
from mlcycle_nb.errors import MLCycleError, Refused
from mlcycle_nb.files import read_small_file
from mlcycle_nb.monitoring.channels._contract import Delivery, Message
from mlcycle_nb.monitoring.channels._destination import Destination, resolve

CONNECT_SECONDS = 5.0
WHOLE_SECONDS = 10.0
SMALLEST_SECRET_BYTES = 24
_AGAIN = frozenset({408, 425, 429})


class Webhook:
    """Posts to ``monitoring.webhook_url``; any 2xx is a delivery.

    A redirect is not followed. 408, 425, 429, 5xx and a failed connection are tried again, other answers are not.
    """

    def deliver(self, context: Context, key: str, message: Message) -> Delivery:
        settings = context.settings.monitoring
        try:
            secret = read_secret(settings.webhook_secret_file)
            destination = resolve(settings.webhook_url, settings.webhook_allowed_hosts)
        except MLCycleError as failure:
            return Delivery(delivered=False, detail=str(failure))
        except OSError as failure:
            return Delivery(delivered=False, retry=True, detail=f"the host cannot be found: {failure}")
        body = json.dumps(dict(message), ensure_ascii=True, sort_keys=True).encode()
        try:
            return _post(destination, body, headers(key, int(time.time()), body, secret))
        except (OSError, http.client.HTTPException) as failure:
            return Delivery(delivered=False, retry=True, detail=f"{type(failure).__name__}: {failure}"[:200])


def headers(key: str, timestamp: int, body: bytes, secret: bytes) -> dict[str, str]:
    """Return the headers of one attempt: the key never changes, the time and so the signature do."""
    return {
        "Content-Type": "application/json",
        "User-Agent": "mlcycle-nb",
        "Idempotency-Key": key,
        "webhook-id": key,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature(key, timestamp, body, secret)}",
    }


def signature(key: str, timestamp: int, body: bytes, secret: bytes) -> str:
    """Return base64 of HMAC-SHA256 over ``key.timestamp.body``."""
    signed = hmac.new(secret, f"{key}.{timestamp}.".encode() + body, hashlib.sha256)
    return base64.b64encode(signed.digest()).decode()


def read_secret(file: str) -> bytes:
    """Return the secret in `file`: ``whsec_`` and base64, or any text of at least 24 bytes.

    Raises
    ------
    Refused
        When there is none, others may read it, or it is too short to be a secret.
    """
    if not file:
        raise Refused("the webhook has no secret to sign with", remedy="set monitoring.webhook_secret_file")
    path = Path(file).expanduser()
    text = read_small_file(path, limit=4096).strip()
    status = os.stat(path)
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise Refused("others may read the webhook's secret", where=str(path), remedy=f"chmod 600 {path}")
    try:
        secret = base64.b64decode(text[6:], validate=True) if text.startswith("whsec_") else text.encode()
    except binascii.Error:
        raise Refused("the webhook's secret is not base64 after whsec_", where=str(path)) from None
    if len(secret) < SMALLEST_SECRET_BYTES:
        raise Refused(f"the webhook's secret has under {SMALLEST_SECRET_BYTES} bytes", where=str(path))
    return secret


def _post(destination: Destination, body: bytes, named: dict[str, str]) -> Delivery:
    # The socket is connected here, to the address that was checked: a second look-up could give another one.
    connected = socket.create_connection((destination.address, destination.port), timeout=CONNECT_SECONDS)
    # Each read has a limit of its own; a receiver that sends one byte a second is ended by this one.
    held = [connected]
    deadline = threading.Timer(WHOLE_SECONDS, _cut, [held])
    deadline.daemon = True
    deadline.start()
    try:
        if destination.secure:
            held[0] = ssl.create_default_context().wrap_socket(connected, server_hostname=destination.host)
        connection = http.client.HTTPConnection(destination.host, destination.port)
        connection.sock = held[0]
        connection.request("POST", destination.target, body, {"Host": destination.host_header, **named})
        answer = connection.getresponse()
        return _read(answer.status, answer.getheader("Retry-After"))
    finally:
        deadline.cancel()
        held[0].close()


def _cut(held: list[socket.socket]) -> None:
    try:
        held[0].shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has ended by itself


def _read(status: int, retry_after: str | None) -> Delivery:
    if 200 <= status < 300:
        return Delivery(delivered=True, detail=f"HTTP {status}")
    if 300 <= status < 400:
        return Delivery(delivered=False, detail=f"HTTP {status}: redirects are not followed")
    again = status >= 500 or status in _AGAIN
    return Delivery(
        delivered=False,
        retry=again,
        detail=f"HTTP {status}",
        retry_after_seconds=_seconds(retry_after) if again else None,
    )


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    if text.strip().isdigit():
        return float(text.strip())
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError):
        return None


PLUGIN = Webhook()
