"""A log file: one JSON line a message in ``logs/alerts.log`` of the workspace."""

from __future__ import annotations

import json
import os

from mlcycle_nb.context import Context
from mlcycle_nb.monitoring.channels._contract import Delivery, Message

FILE = "alerts.log"


class LogFile:
    """Appends and syncs; a resend is another line with the same key."""

    def deliver(self, context: Context, key: str, message: Message) -> Delivery:
        # ASCII only: neither control characters nor bidirectional ones reach a terminal that shows the file.
        line = json.dumps({"key": key, "time": context.clock.now().isoformat(), **message}, ensure_ascii=True) + "\n"
        path = context.folder("logs") / FILE
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.write(descriptor, line.encode())  # one write, so lines of two writers do not mix
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as failure:
            return Delivery(delivered=False, retry=True, detail=f"{FILE}: {failure.strerror}")
        return Delivery(delivered=True)


PLUGIN = LogFile()
