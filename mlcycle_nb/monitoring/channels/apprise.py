"""Apprise: mail, Slack, Teams, PagerDuty and a hundred more, by the URLs in ``monitoring.apprise_file``."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading

from mlcycle_nb.context import Context
from mlcycle_nb.errors import InvalidInput, MissingDependency, MLCycleError
from mlcycle_nb.monitoring.channels._apprise_file import read_urls
from mlcycle_nb.monitoring.channels._apprise_send import FAILED, LONGEST_SECONDS, MISSING, NOT_A_URL, TIMED_OUT
from mlcycle_nb.monitoring.channels._contract import Delivery, Message

_GRACE_SECONDS = 5.0
_AT_ONCE = threading.BoundedSemaphore(2)
BUSY = 7
_SAID = {
    FAILED: "it did not go out",
    BUSY: "other messages are on their way",
    NOT_A_URL: "Apprise does not know this kind of URL",
    MISSING: "the package 'apprise' is not installed: pip install 'mlcycle-nb[apprise]'",
    TIMED_OUT: f"no answer within {LONGEST_SECONDS} s",
}
_TYPES = {"firing": "failure", "resolved": "success"}


class AppriseReceivers:
    """One message a receiver, each sent by a process of its own that ends itself when it takes too long.

    Apprise writes URLs into its log, and a receiver that sends one byte a second would hold a thread of the
    supervisor: so that process has no output but its exit status, and an alarm. Apprise says only whether a message
    went out, so what did not is always tried again.
    """

    def targets(self, context: Context) -> tuple[str, ...]:
        """Return the names of the receivers."""
        try:
            return tuple(read_urls(context.settings.monitoring.apprise_file))
        except (MLCycleError, OSError):
            return ("",)  # the delivery says what is wrong with the file, and is tried again

    def deliver(self, context: Context, key: str, message: Message) -> Delivery:
        """Reach every receiver, with one message to all of them."""
        return self.deliver_to(context, key, message, "")

    def deliver_to(self, context: Context, key: str, message: Message, target: str) -> Delivery:
        """Try once to reach one receiver."""
        try:
            urls = read_urls(context.settings.monitoring.apprise_file)
        except (MLCycleError, OSError) as failure:
            return Delivery(delivered=False, retry=True, detail=str(failure))
        if target and target not in urls:
            return Delivery(delivered=False, detail=f"receiver {target} is not in the file any more")
        for name in [target] if target else urls:
            status = _send(urls[name], key, message)
            if status:
                said = _SAID.get(status, f"its process ended with {status}")
                return Delivery(delivered=False, retry=status != NOT_A_URL, detail=f"receiver {name}: {said}")
        return Delivery(delivered=True)


def check(file: str) -> None:
    """Raise when nothing could be sent: no package, no file, a file that others may read or that is not understood.

    Raises
    ------
    MissingDependency, InvalidInput, Refused
    """
    if importlib.util.find_spec("apprise") is None:
        raise MissingDependency(
            "the channel 'apprise' needs the package 'apprise'", remedy="pip install 'mlcycle-nb[apprise]'"
        )
    try:
        urls = read_urls(file)
    except OSError as failure:
        raise InvalidInput(f"the Apprise URLs cannot be read: {failure.strerror}", where=file) from None
    for name, url in urls.items():
        if _run({"url": url, "check": True}) == NOT_A_URL:
            raise InvalidInput(_SAID[NOT_A_URL], value=name, where=file)


def _send(url: str, key: str, message: Message) -> int:
    named = {"firing": "ALERT", "resolved": "over"}.get(str(message["status"]), str(message["status"]))
    lines = [str(message["summary"]), f"affected: {message['subjects']}", f"alerts: {message['alerts']}", f"key: {key}"]
    return _run_one_of_few(
        {
            "url": url,
            "title": f"{named}: {message['kind']} of {message['monitor']}",
            "body": "\n".join(lines),
            "type": _TYPES.get(str(message["status"]), "info"),
        }
    )


def _run_one_of_few(request: dict[str, object]) -> int:
    # Each holds a thread of the supervisor for up to half a minute, and rollouts need threads too.
    if not _AT_ONCE.acquire(blocking=False):
        return BUSY
    try:
        return _run(request)
    finally:
        _AT_ONCE.release()


def _run(request: dict[str, object]) -> int:
    # The URL goes through a pipe: arguments and environments of processes can be listed.
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mlcycle_nb.monitoring.channels._apprise_send"],
            input=json.dumps(request).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=LONGEST_SECONDS + _GRACE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    return done.returncode


PLUGIN = AppriseReceivers()
