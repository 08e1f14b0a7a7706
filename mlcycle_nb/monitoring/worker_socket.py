"""Lines over the worker's Unix socket, and who may speak."""

from __future__ import annotations

import os
import socket
import struct

from mlcycle_nb.errors import EngineError

LINE_BYTES = 64 * 1_048_576


def peer_is_this_user(connection: socket.socket) -> bool:
    """Return whether the other end runs as this user; where the system cannot tell, the private folder decides."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    credentials = connection.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1]) == os.getuid()


def read_line(connection: socket.socket, limit: int) -> bytes:
    """Return the bytes up to the first line end.

    Raises
    ------
    EngineError
        When the other end closes before it, or sends more than `limit` bytes.
    """
    chunks: list[bytes] = []
    size = 0
    while True:
        chunk = connection.recv(65_536)
        if not chunk:
            raise EngineError("the other end closed the socket in the middle of a line")
        end = chunk.find(b"\n")
        chunks.append(chunk if end < 0 else chunk[:end])
        size += len(chunks[-1])
        if size > limit:
            raise EngineError(f"a line is over {limit} bytes")
        if end >= 0:
            return b"".join(chunks)
