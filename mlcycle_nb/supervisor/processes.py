"""The processes of a workspace: started in sessions of their own, adopted after a crash, stopped to the last child.

Each carries ``MLCYCLE_PROCESS=<workspace>/<name>`` in its environment. So a process that was started in the
instant before its starter was killed is found again, and so are children that left the process group.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from mlcycle_nb.errors import EngineError, InvalidInput
from mlcycle_nb.files import private_folder, write_atomically
from mlcycle_nb.supervisor.identity import ProcessIdentity

MARKER = "MLCYCLE_PROCESS"
_EXEC_LOOKS, _EXEC_SECONDS = 50, 0.002
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,150}")
NOTEBOOK_ONLY = ("JPY_", "JUPYTER_TOKEN", "JUPYTERHUB_API_TOKEN", "PYTEST_CURRENT_TEST")
"""Beginnings of variables that concern a notebook server and its kernel alone, secrets among them."""
_NOT_INHERITED = (*NOTEBOOK_ONLY, "MLCYCLE_CRASH_AT")


class ProcessTable:
    """Starts, finds and stops the processes of one workspace.

    Parameters
    ----------
    folder : Path
        Where a small file for each process is kept.
    workspace_id : str
        Marks the processes as this workspace's.
    """

    def __init__(self, folder: Path, workspace_id: str) -> None:
        self._folder = private_folder(folder)
        self._workspace_id = workspace_id
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.RLock()

    def ensure(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log: Path,
    ) -> ProcessIdentity:
        """Return the living process `name`, starting it when there is none.

        Parameters
        ----------
        name : str
            Stable name, such as ``replica-production-digits-7-0``.
        argv : sequence of str
            Program and arguments; never a shell line.
        env : mapping, optional
            Variables added to the inherited environment.
        cwd : Path, optional
            Working directory; the folder of `log` by default.
        log : Path
            File that receives standard output and error, appended to.
        """
        if not _NAME.fullmatch(name):
            raise InvalidInput("process name breaks its grammar", value=name)
        with self._lock:
            living = self.get(name) or self._unrecorded(name, argv)
            if living is None:
                living = self._spawn(name, argv, env or {}, cwd, log)
            self._record(name, living, argv)
            return living

    def get(self, name: str) -> ProcessIdentity | None:
        """Return the recorded process `name` when it is alive."""
        try:
            tree = json.loads(self._file(name).read_text())
        except (FileNotFoundError, ValueError):
            return None
        identity = ProcessIdentity(int(tree["pid"]), str(tree["started"]))
        self._reap(name)
        return identity if identity.alive() else None

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of living processes, sorted."""
        found = (file.name.removesuffix(".json") for file in self._folder.glob("*.json"))
        return sorted(name for name in found if name.startswith(prefix) and self.get(name))

    def exit_code(self, name: str) -> int | None:
        """Return the exit code of an ended child of this process; None when unknown or alive."""
        self._reap(name)
        child = self._children.get(name)
        return None if child is None else child.returncode

    def reap(self) -> None:
        """Take note of children that have ended, so that none stays a zombie until somebody asks for it."""
        with self._lock:
            for child in self._children.values():
                child.poll()

    def stop(self, name: str, grace_seconds: float = 5.0) -> None:
        """End the process and all its descendants: SIGTERM first, SIGKILL after the grace; returns when gone.

        One that is suspended is continued, so that it can end by itself.
        """
        leader = self.get(name)
        for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 10.0)):
            for member in self._members(name, leader):
                _signal(member, number)
                _signal(member, signal.SIGCONT)
            if self._gone_within(name, leader, seconds):
                self._file(name).unlink(missing_ok=True)
                return
        raise EngineError(f"process {name} does not end, even by SIGKILL", remedy="it waits in the kernel")

    def stop_all(self, grace_seconds: float = 5.0) -> list[str]:
        """End every process of the workspace, recorded or not; return their names."""
        names = {file.name.removesuffix(".json") for file in self._folder.glob("*.json")}
        prefix = f"{self._workspace_id}/"
        names |= {marker.removeprefix(prefix) for _, marker, _ in _own_processes() if marker.startswith(prefix)}
        own = os.environ.get(MARKER, "")
        stopped = sorted(name for name in names if f"{self._workspace_id}/{name}" != own)
        for name in stopped:  # all get the signal at once, so that their grace times run together
            for member in self._members(name, self.get(name)):
                _signal(member, signal.SIGTERM)
                _signal(member, signal.SIGCONT)
        for name in stopped:
            self.stop(name, grace_seconds)
        return stopped

    # -- parts -----------------------------------------------------------------------------------------------

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _spawn(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], cwd: Path | None, log: Path
    ) -> ProcessIdentity:
        private_folder(log.parent)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_INHERITED)}
        inherited |= {"PYTHONUNBUFFERED": "1", **env, MARKER: f"{self._workspace_id}/{name}"}
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            child = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                cwd=cwd or log.parent,
                env=inherited,
                start_new_session=True,  # a kernel interrupt or restart signals the kernel's own group
            )
        except OSError as failure:
            raise EngineError(f"{argv[0]} cannot be started: {failure.strerror}", where=name) from failure
        finally:
            os.close(descriptor)
        self._children[name] = child
        identity = ProcessIdentity.of(child.pid)
        if identity is None:
            child.wait()
            return ProcessIdentity(child.pid, "ended")
        return identity

    def _record(self, name: str, identity: ProcessIdentity, argv: Sequence[str]) -> None:
        tree = {"pid": identity.pid, "started": identity.started, "argv": list(argv)}
        write_atomically(self._file(name), json.dumps(tree), durable=False)

    def _unrecorded(self, name: str, argv: Sequence[str]) -> ProcessIdentity | None:
        """Find the process that was started in the instant before its starter was killed.

        Its command line tells it from a child that outlived it, which has the same marker and may lead a session
        of its own.
        """
        for process in self._members(name, None):
            try:
                if os.getpgid(process.pid) == process.pid and _runs(process, list(argv)):
                    return ProcessIdentity.of(process.pid)
            except (ProcessLookupError, psutil.Error):
                continue
        return None

    def _members(self, name: str, leader: ProcessIdentity | None) -> list[psutil.Process]:
        """Return the living processes that carry the name's marker, or are in the group of its leader.

        The number of a group is not given away while the group has a member, so it stays good after the
        leader's end.
        """
        wanted = f"{self._workspace_id}/{name}"
        group = None if leader is None else leader.pid
        return [process for process, marker, of_group in _own_processes() if marker == wanted or of_group == group]

    def _reap(self, name: str) -> None:
        child = self._children.get(name)
        if child is not None:
            child.poll()

    def _gone_within(self, name: str, leader: ProcessIdentity | None, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            self._reap(name)
            if (leader is None or not leader.alive()) and not self._members(name, leader):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)


def _own_processes() -> Iterator[tuple[psutil.Process, str, int | None]]:
    """Yield this user's other living processes with their marker and process group."""
    uid = os.getuid()
    for process in psutil.process_iter():
        try:
            if process.uids().real != uid or process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                continue
            yield process, marker_of(process), os.getpgid(process.pid)
        except (psutil.Error, OSError):
            continue


def marker_of(process: psutil.Process) -> str:
    """Return the marker that a process carries, or the empty text.

    In the middle of an exec a process shows neither its environment nor its arguments; it is looked at again, or it
    would be taken for somebody else's and outlive what it belongs to.
    """
    environment: dict[str, str] = {}
    for _ in range(_EXEC_LOOKS):
        environment = process.environ()
        if environment or os.getpgid(process.pid) == 0 or process.status() == psutil.STATUS_ZOMBIE:
            break  # the kernel's own threads have no group
        if process.cmdline():
            environment = process.environ()  # none at all, or the exec has ended in between
            break
        time.sleep(_EXEC_SECONDS)
    return environment.get(MARKER, "")


def _runs(process: psutil.Process, argv: list[str]) -> bool:
    """Return whether `process` was started with `argv`; the kernel puts a script's interpreter before it."""
    shown = process.cmdline()
    return shown[-len(argv) :] == argv or (len(argv) > 1 and shown[1 - len(argv) :] == argv[1:])


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
