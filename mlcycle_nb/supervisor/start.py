"""Starting, finding and stopping the supervisor process of a workspace."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mlcycle_nb.errors import EngineError, StoreError
from mlcycle_nb.files import private_folder
from mlcycle_nb.settings import Settings
from mlcycle_nb.supervisor.identity import ProcessIdentity
from mlcycle_nb.supervisor.processes import MARKER, NOTEBOOK_ONLY

_START_SECONDS = 60.0
FROZEN_SECONDS = 5.0
"""A supervisor that is suspended (SIGSTOP) for so long is ended: it holds the lock, and nobody else can lead."""
_suspended_since: dict[ProcessIdentity, float] = {}


def lock_file(home: Path) -> Path:
    """Return the file whose lock the running supervisor holds."""
    return private_folder(home / "run") / "supervisor.lock"


def state_file(home: Path) -> Path:
    """Return the file in which the running supervisor describes itself."""
    return home / "run" / "supervisor.json"


def take_lock(home: Path) -> int | None:
    """Return a descriptor that holds the supervisor's lock, or None when another process holds it.

    The kernel lets go of the lock when its holder dies, however it dies.
    """
    descriptor = os.open(lock_file(home), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def find_supervisor(home: Path) -> ProcessIdentity | None:
    """Return the running, ready supervisor of this workspace on this machine."""
    try:
        tree = json.loads(state_file(home).read_text())
    except (FileNotFoundError, ValueError):
        return None
    identity = ProcessIdentity(int(tree["pid"]), str(tree["started"]))
    return identity if identity.alive() else None


def ensure_supervisor(home: Path, settings: Settings) -> ProcessIdentity:
    """Return the running supervisor, starting one in a session of its own when there is none."""
    running = find_supervisor(home)
    if running is not None and not _end_frozen(running):
        return running
    log = private_folder(home / "logs") / "supervisor.log"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    # A marker of another process would make the supervisor die with that one.
    environment = {k: v for k, v in os.environ.items() if not k.startswith((*NOTEBOOK_ONLY, MARKER))}
    environment |= settings_environment(settings)
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "mlcycle_nb.supervisor", "--home", str(home)],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            env=environment,
            cwd=home,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        running = find_supervisor(home)
        if running is not None:
            return running
        # An exit code of 0 says that another starter was first: its supervisor is about to be ready.
        if child.poll() not in (None, 0):
            break
        time.sleep(0.02)
    tail = log.read_text(errors="replace")[-2000:].strip().splitlines()
    raise EngineError(
        f"the supervisor did not start: {tail[-1] if tail else 'it wrote nothing'}",
        where=str(log),
        remedy="mlcycle doctor",
    )


def revive_supervisor(home: Path, settings: Settings) -> None:
    """Start the supervisor again when it was killed; one that ended by itself, or was told to, stays ended."""
    # Only a supervisor that had no time for it leaves the file behind.
    if state_file(home).exists():
        ensure_supervisor(home, settings)


def _end_frozen(running: ProcessIdentity) -> bool:
    """Kill a supervisor that has been suspended for long; return whether it is gone.

    Its lease is over by then. Were it continued later, it would find another leader; only its lock has to go.
    """
    if not running.suspended():
        _suspended_since.pop(running, None)
        return False
    if time.monotonic() - _suspended_since.setdefault(running, time.monotonic()) < FROZEN_SECONDS:
        return False
    del _suspended_since[running]
    try:
        os.kill(running.pid, signal.SIGKILL)
    except ProcessLookupError:
        return True  # another client was first
    deadline = time.monotonic() + 10.0
    while running.alive() and time.monotonic() < deadline:
        _reap(running.pid)
        time.sleep(0.02)
    return not running.alive()


def stop_supervisor(home: Path, grace_seconds: float = 10.0) -> bool:
    """End the supervisor, and only it; return whether one ran."""
    running = find_supervisor(home)
    if running is None:
        return False
    for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 10.0)):
        try:
            os.kill(running.pid, number)
            os.kill(running.pid, signal.SIGCONT)  # one that is suspended hears the first signal only then
        except ProcessLookupError:
            break
        deadline = time.monotonic() + seconds
        while running.alive() and time.monotonic() < deadline:
            _reap(running.pid)
            time.sleep(0.02)
        if not running.alive():
            break
    if running.alive():
        raise StoreError("the supervisor does not end", value=running.pid)
    _reap(running.pid)
    state_file(home).unlink(missing_ok=True)
    return True


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # it was started by another process


def settings_environment(settings: Settings) -> dict[str, str]:
    """Hand settings given as arguments to the new process: they are in no file that it could read."""
    from dataclasses import fields

    environment = {}
    for section in fields(settings):
        values = getattr(settings, section.name)
        for setting in fields(values):
            value = getattr(values, setting.name)
            text = ",".join(value) or "," if isinstance(value, tuple) else str(value)  # "," is an empty list
            if text:
                environment[f"MLCYCLE_{section.name}_{setting.name}".upper()] = text
    return environment
