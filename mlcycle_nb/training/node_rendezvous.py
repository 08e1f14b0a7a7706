"""torchrun's rendezvous for a fixed number of hosts with ranks of their own.

torchrun's own ``c10d`` rendezvous reads pickles from its store, and its ``static`` one listens on every interface. This
one exchanges JSON through a store on one address, names who is missing, and notices a host that has gone.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import socket
import sys
import threading
import time
from typing import Any

from torch.distributed import PrefixStore
from torch.distributed.elastic.rendezvous.api import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from mlcycle_nb.errors import MLCycleError, Refused
from mlcycle_nb.training import nodes
from mlcycle_nb.training.faults import write_error
from mlcycle_nb.training.job_folder import JobFolder, JobSpec

BACKEND = "mlcycle"
BEAT_SECONDS = 1.0
LOST_SECONDS = 20.0
"""A host that was silent for so long is lost; a worker of its that died is noticed at once by the others."""

_LOOK_SECONDS = 0.1
_LEAVE_SECONDS = 10.0
_REPORT_SECONDS = 3.0
_SAME_EVERYWHERE = ("torch", "mlcycle_nb", "python", "cuda")


class NodeRendezvous(RendezvousHandler):
    """Brings the launchers of all hosts of one attempt together, once.

    Parameters
    ----------
    folder : JobFolder
    spec : JobSpec
    meeting : Meeting
    node_rank : int
        Of this host; 0 is where the supervisor is.
    address : str
        Of this host, on the network that the hosts share.
    """

    def __init__(self, folder: JobFolder, spec: JobSpec, meeting: nodes.Meeting, node_rank: int, address: str) -> None:
        self._folder, self._spec, self._meeting = folder, spec, meeting
        self._rank, self._address = node_rank, address
        self._server: Any = None
        self._store: Any = None
        self._beats: Any = None
        self._refused = False
        self._over = threading.Event()

    def host(self) -> None:
        """Open the store, on the first host, and say where it is."""
        self._server = nodes.serve(self._meeting.host, self._meeting.port)
        nodes.announce(self._folder, self._meeting)

    # -- what torchrun calls ---------------------------------------------------------------------------------

    def get_backend(self) -> str:
        """Return the name that torchrun knows it by."""
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait for all hosts; on each of them an error says why they do not come together."""
        self._store = nodes.connect(self._meeting, "nodes")
        found = self._store.compare_set(f"joined-{self._rank}", "", json.dumps(self._self_description()))
        holder = json.loads(found)
        if holder["token"] != self._token():
            raise Refused(f"node {self._rank} of {self._spec.nodes} has joined already, from {_place(holder)}")
        if self._rank == 0:
            verdict = self._judge()
            self._store.set("verdict", verdict)
        else:
            verdict = self._await_verdict()
        if verdict:
            self._refused = True  # the others want to know it, too
            raise Refused(verdict)
        threading.Thread(target=self._watch, name="node-watch", daemon=True).start()
        shared = RendezvousStoreInfo(self._meeting.host, self._meeting.port)
        return RendezvousInfo(PrefixStore("agents", self._store), self._rank, self._spec.nodes, shared)

    def is_closed(self) -> bool:
        """Return whether the attempt is over."""
        return self._over.is_set()

    def set_closed(self) -> None:
        """Take no part any more."""
        self._over.set()

    def num_nodes_waiting(self) -> int:
        """Return 0: who comes late waits for the next attempt."""
        return 0

    def get_run_id(self) -> str:
        """Return job and attempt."""
        return f"{self._spec.job}-{self._meeting.attempt}"

    def shutdown(self) -> bool:
        """Leave; at a good end the first host waits a moment for the others, whose last words go through its store."""
        self._over.set()
        if self._store is None:
            return True
        try:
            self._store.set(f"left-{self._rank}", "1")
            if self._rank == 0 and (self._refused or self._folder.outcome_of(self._meeting.attempt).exists()):
                here = [rank for rank in range(self._spec.nodes) if self._store.check([f"joined-{rank}"])]
                everybody = [f"left-{rank}" for rank in here]
                deadline = time.monotonic() + _LEAVE_SECONDS
                while not self._store.check(everybody) and time.monotonic() < deadline:
                    time.sleep(_LOOK_SECONDS)
        except Exception:  # the store went with the first host: then there is nobody to wait for
            return False
        return True

    def fail(self, problem: str = "") -> None:
        """Tell the other hosts that this one gave up, so that all start again together."""
        self._over.set()
        try:
            self._store.set("failed", problem or f"a worker on node {self._rank} failed")
        except Exception:  # as in `shutdown`
            return

    # -- coming together -------------------------------------------------------------------------------------

    def _judge(self) -> str:
        """Wait for all hosts and compare them; return what speaks against going on, or nothing."""
        deadline = time.monotonic() + self._spec.join_seconds
        while missing := [rank for rank in range(self._spec.nodes) if not self._store.check([f"joined-{rank}"])]:
            if self._folder.stop_request.exists():
                return "the job was asked to stop before all nodes had joined"
            if time.monotonic() >= deadline:
                return self._missing(missing)
            time.sleep(_LOOK_SECONDS)
        own = self._self_description()
        for rank in range(1, self._spec.nodes):
            other = json.loads(self._store.get(f"joined-{rank}"))
            for name in _SAME_EVERYWHERE:
                if other[name] != own[name]:
                    return f"node {rank} ({_place(other)}) has {name} {other[name]}, node 0 has {own[name]}"
        return ""

    def _missing(self, missing: list[int]) -> str:
        joined = [rank for rank in range(self._spec.nodes) if rank not in missing]
        there = [f"node {rank} ({_place(json.loads(self._store.get(f'joined-{rank}')))})" for rank in joined]
        absent = " and ".join(f"node {rank}" for rank in missing)
        seconds = f"{self._spec.join_seconds:g} s"
        command = nodes.join_command(_home(self._folder), self._spec.job, self._spec.rendezvous, missing[0])
        return (
            f"{absent} of {self._spec.nodes} did not join within {seconds}; joined: {', '.join(there)}; "
            f"on the missing host run: {command}"
        )

    def _await_verdict(self) -> str:
        deadline = time.monotonic() + self._spec.join_seconds + LOST_SECONDS
        while not self._store.check(["verdict"]):
            if time.monotonic() >= deadline:
                return f"node 0 at {self._meeting.host}:{self._meeting.port} gave no answer"
            time.sleep(_LOOK_SECONDS)
        return str(self._store.get("verdict").decode())

    def _self_description(self) -> dict[str, Any]:
        import torch

        wanted = nodes.local_processes(self._spec)
        cuda = self._spec.device != "cpu" and torch.cuda.is_available() and torch.cuda.device_count() >= wanted
        return {
            "token": self._token(),
            "host": socket.gethostname(),
            "address": self._address,
            "torch": torch.__version__,
            "mlcycle_nb": importlib.metadata.version("mlcycle-nb"),
            "python": platform.python_version(),
            "cuda": cuda,
        }

    def _token(self) -> str:
        return f"{socket.gethostname()}/{self._address}/{os.getpid()}"

    # -- staying together ------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Show signs of life and look for those of the others, until the attempt is over or somebody is lost."""
        try:
            self._beats = nodes.connect(self._meeting, "nodes")
            seen = {rank: ("", time.monotonic()) for rank in range(self._spec.nodes) if rank != self._rank}
            number = 0
            while not self._over.wait(BEAT_SECONDS):
                number += 1
                self._beats.set(f"beat-{self._rank}", str(number))
                if self._beats.check(["failed"]):
                    self._give_up(str(self._beats.get("failed").decode()))
                for rank, (last, since) in seen.items() if self._rank == 0 else ():
                    if self._beats.check([f"left-{rank}"]) or not self._beats.check([f"beat-{rank}"]):
                        continue
                    beat = str(self._beats.get(f"beat-{rank}").decode())
                    if beat != last:
                        seen[rank] = (beat, time.monotonic())
                    elif time.monotonic() - since > LOST_SECONDS:
                        self._give_up(f"node {rank} gave no sign of life for {LOST_SECONDS:g} s")
        except Exception as failure:  # any error of the store's connection means the same
            if not self._over.is_set():
                self._give_up(f"node 0 has gone ({type(failure).__name__})")

    def _give_up(self, problem: str) -> None:
        self._over.wait(_REPORT_SECONDS)  # workers that lost the others say so themselves
        if self._over.is_set():
            return
        print(f"mlcycle: {problem}", file=sys.stderr, flush=True)
        first_rank = self._rank * nodes.local_processes(self._spec)
        path = self._folder.error_of(self._meeting.attempt, first_rank)
        if not path.exists():
            write_error(path, problem_document("peer", first_rank, problem))
        os._exit(1)  # and the workers with it


def problem_document(kind: str, rank: int | None, problem: str) -> dict[str, Any]:
    """Return an error document of what no worker said."""
    empty = {"line": None, "source": "", "traceback": "", "type": "NodeProblem"}
    return {"kind": kind, "rank": rank, "message": problem, "time": time.time(), **empty}


def explain(folder: JobFolder, attempt: int, failure: BaseException) -> None:
    """Note why the hosts did not come together, where the supervisor looks for it."""
    problem = failure.problem if isinstance(failure, MLCycleError) else f"{type(failure).__name__}: {failure}"
    write_error(folder.error_of(attempt, 0), problem_document("nodes", None, problem))


def _place(document: dict[str, Any]) -> str:
    return f"{document['host']} at {document['address']}"


def _home(folder: JobFolder) -> Any:
    return folder.path.parents[2]
