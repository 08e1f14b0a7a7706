"""The process that sends one message by Apprise; its standard input has the URL, its exit status is its answer."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

FAILED, NOT_A_URL, MISSING, TIMED_OUT = 3, 4, 5, 6
LONGEST_SECONDS = 25


def main() -> int:
    # The alarm ends this process whatever its sender has become, also while a library waits in C.
    signal.signal(signal.SIGALRM, lambda *_: os._exit(TIMED_OUT))
    signal.setitimer(signal.ITIMER_REAL, LONGEST_SECONDS)
    request: dict[str, Any] = json.load(sys.stdin.buffer)
    try:
        import apprise
    except ModuleNotFoundError:
        return MISSING
    # No configuration files and no plug-ins from elsewhere: what a URL of the private file says, and nothing else.
    sender = apprise.Apprise(asset=apprise.AppriseAsset(plugin_paths=[], async_mode=False, secure_logging=True))
    if not sender.add(request["url"]):
        return NOT_A_URL
    if request.get("check"):
        return 0
    sent = sender.notify(
        body=request["body"], title=request["title"], notify_type=request["type"], body_format=apprise.NotifyFormat.TEXT
    )
    return 0 if sent else FAILED


if __name__ == "__main__":
    raise SystemExit(main())
