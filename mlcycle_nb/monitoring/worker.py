"""The process that compares: ``python -m mlcycle_nb.monitoring.worker --home FOLDER --socket PATH``.

Detectors import for seconds and compute for long, so neither the kernel nor the supervisor runs them. One worker
stays warm for a workspace. It answers one JSON line with one JSON line on a Unix socket; no pickle, and only this
user's processes are answered.
"""

from __future__ import annotations

import argparse
import json
import logging
import socket
import time
from pathlib import Path
from typing import Any

from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.monitoring.inspection import Inspector
from mlcycle_nb.monitoring.worker_socket import LINE_BYTES, peer_is_this_user, read_line

logger = logging.getLogger(__name__)
IDLE_SECONDS = 900.0
_LOOK_SECONDS = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="mlcycle_nb.monitoring.worker")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    serve(arguments.home, arguments.socket)
    return 0


def serve(home: Path, path: Path) -> None:
    """Answer requests until nobody has asked for a while, or the workspace is gone."""
    inspector = Inspector(home)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(16)
        listener.settimeout(_LOOK_SECONDS)
        asked_at = time.monotonic()
        while time.monotonic() - asked_at < IDLE_SECONDS and home.is_dir():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(_LOOK_SECONDS)
                _answer(connection, inspector)
            asked_at = time.monotonic()
    path.unlink(missing_ok=True)


def _answer(connection: socket.socket, inspector: Inspector) -> None:
    if not peer_is_this_user(connection):
        return
    try:
        request = json.loads(read_line(connection, LINE_BYTES))
        reply = _reply(request, inspector)
        connection.settimeout(None)
        connection.sendall(json.dumps(reply, allow_nan=False).encode() + b"\n")
    except (OSError, ValueError) as failure:
        logger.warning("a request was not answered: %s", failure)


def _reply(request: dict[str, Any], inspector: Inspector) -> dict[str, Any]:
    try:
        return {"ok": True, **inspector.answer(request)}
    except MLCycleError as failure:
        return {"ok": False, "error": str(failure)}
    except Exception as failure:  # a plug-in may raise anything; the caller is told, the worker stays
        logger.exception("a window could not be judged")
        return {"ok": False, "error": f"{type(failure).__name__}: {failure}"[:300]}


if __name__ == "__main__":
    raise SystemExit(main())
