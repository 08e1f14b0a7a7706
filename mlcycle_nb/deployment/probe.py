"""Whether a process behind a Unix socket says that it is ready."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

PROBE_SECONDS = 2.0


def answers(path: Path) -> bool:
    """Ask for ``/v2/health/ready``; False when nothing listens, or not within two seconds."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/v2/health/ready", headers={"host": "health"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("process", timeout=PROBE_SECONDS)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))
