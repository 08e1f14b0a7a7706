"""``mlcycle train join``: another host takes part in a job, attempt after attempt, until the job has ended.

It opens no database: SQLite's write-ahead log must not be used from two hosts. All it reads lies in the job's folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from mlcycle_nb.errors import InvalidInput, NotFound, Refused, did_you_mean
from mlcycle_nb.training import nodes
from mlcycle_nb.training.job_folder import JobFolder, JobSpec, read_document
from mlcycle_nb.training.launch import node_plan
from mlcycle_nb.training.node_agent import OWNED

_LOOK_SECONDS = 0.2
_GRACE_SECONDS = 10.0
MARKER = "MLCYCLE_PROCESS"


def join(
    home: Path,
    job: str,
    *,
    rendezvous: str = "",
    node_rank: int | None = None,
    address: str = "",
    say: Callable[[str], None] = print,
) -> int:
    """Take part in a job as one of its hosts; return 0 when it ended well, else 1.

    Parameters
    ----------
    home : Path
        The workspace folder, on a file system that all hosts share.
    job : str
        Id of a job that was submitted with ``--nodes``.
    rendezvous : str, optional
        As the job has it; only compared.
    node_rank : int, optional
        From 1; the first that is free by default.
    address : str, optional
        Of this host, on the network that the hosts share; by default the one it reaches the rendezvous from.
    say : callable
        Gets one line for each thing that happens.

    Raises
    ------
    NotFound
        When this host does not see the workspace folder, or there is no such job.
    Refused
        When the job runs on one host, all its nodes are taken, it has ended, or it did not start in time.
    """
    folder = _find(home, job)
    spec = folder.read_spec()
    if spec.nodes == 1:
        raise Refused(f"job {job} runs on one host", remedy="submit it with --nodes")
    if rendezvous and rendezvous != spec.rendezvous:
        raise InvalidInput(f"the job meets at {spec.rendezvous}", value=rendezvous, where="--rendezvous")
    host, port = nodes.parse_rendezvous(spec.rendezvous)
    address = address or nodes.own_address(host, port)
    nodes.interface_of(address)
    with _claimed(folder, spec, node_rank, address) as rank:
        say(f"node {rank} of {spec.nodes} of {job}, from {socket.gethostname()} at {address}")
        return _follow(folder, spec, rank, address, say)


def _find(home: Path, job: str) -> JobFolder:
    jobs = home / "training" / "jobs"
    if not jobs.is_dir():
        raise NotFound(
            "this host does not see the workspace folder",
            value=str(home),
            remedy="put the workspace on a file system that all hosts share, and name it by the same path: --home",
        )
    if not (jobs / job / "job.json").is_file() or Path(job).name != job:
        remedy = did_you_mean(job, [path.name for path in jobs.iterdir()])
        raise NotFound("there is no such training job in this workspace", value=job, remedy=remedy)
    return JobFolder(jobs / job)


@contextmanager
def _claimed(folder: JobFolder, spec: JobSpec, wanted: int | None, address: str) -> Iterator[int]:
    """Hold one of the job's node ranks for as long as this process lives."""
    if wanted is not None and not 1 <= wanted < spec.nodes:
        problem = f"node rank must be from 1 to {spec.nodes - 1}; 0 is where the job was submitted"
        raise InvalidInput(problem, value=wanted, where="--node-rank")
    taken = []
    for rank in range(1, spec.nodes) if wanted is None else [wanted]:
        path = nodes.nodes_folder(folder) / f"node-{rank}.json"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            taken.append(f"node {rank} is {_holder(os.pread(descriptor, 4096, 0))}")
            os.close(descriptor)
            continue
        try:
            own = {"host": socket.gethostname(), "address": address, "pid": os.getpid()}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(own).encode(), 0)
            yield rank
        finally:
            os.close(descriptor)
        return
    count = f"all {spec.nodes} nodes" if wanted is None else f"node {wanted}"
    raise Refused(f"{count} of {spec.job} {'are' if wanted is None else 'is'} taken: {'; '.join(taken)}")


def _holder(content: bytes) -> str:
    try:
        found = json.loads(content)
        return f"{found['host']} at {found['address']}, pid {found['pid']}"
    except (ValueError, KeyError):
        return "another process"


def _follow(folder: JobFolder, spec: JobSpec, rank: int, address: str, say: Callable[[str], None]) -> int:
    done, since = 0, time.monotonic()
    while True:
        ended = read_document(folder.path / "nodes" / "ended.json")
        if ended is not None:
            why = f": {ended['failure']}" if ended["failure"] else ""
            say(f"{spec.job} has {ended['phase']}{why}")
            return 0 if ended["phase"] in {"finished", "stopped", "pruned"} else 1
        meeting = nodes.meeting_of(folder)
        if meeting is None or meeting.attempt <= done:
            if done == 0 and time.monotonic() - since >= spec.join_seconds:
                raise Refused(f"{spec.job} did not start within {spec.join_seconds:g} s", remedy="mlcycle status")
            time.sleep(_LOOK_SECONDS)
            continue
        done = meeting.attempt
        say(f"attempt {done}: meeting at {meeting.host}:{meeting.port}")
        code = _run_attempt(folder, spec, meeting, rank, address)
        say(f"attempt {done}: ended with code {code}")


def _run_attempt(folder: JobFolder, spec: JobSpec, meeting: nodes.Meeting, rank: int, address: str) -> int:
    plan = node_plan(folder, spec, meeting.attempt, rank, address, python=sys.executable)
    env = {**os.environ, "PYTHONUNBUFFERED": "1", **plan.env, OWNED: "1"}
    if meeting.marker:
        env[MARKER] = f"{meeting.marker}-{rank}"
    log = os.open(folder.output / f"node-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        launcher = subprocess.Popen(
            plan.argv,
            env=env,
            cwd=folder.path,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)
    with _ending_with_us(launcher):
        return launcher.wait()


@contextmanager
def _ending_with_us(launcher: subprocess.Popen[bytes]) -> Iterator[None]:
    """Take the launcher along when this process is told to end: the job then starts again when the host comes back."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before: Any = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if launcher.poll() is None:
            launcher.terminate()
            try:
                launcher.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                launcher.kill()  # its workers end with it
                launcher.wait()
