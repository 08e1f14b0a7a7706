"""Training on several hosts: where they meet, what lies in the job's folder for it, and how a host joins.

The workspace folder has to be on a file system that all hosts see under the same path: the cell, what it carries, the
checkpoints and the events lie in it, and its mode 0700 is what keeps others out. The rendezvous itself is a store of
torch, which knows no keys: whoever reaches its port can read and disturb the run. So it listens on the one address that
was given and on no other, and the hosts exchange nothing through it that could run code. Use a private network.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shlex
import socket
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import InvalidInput, Refused
from mlcycle_nb.files import private_folder, write_atomically

if TYPE_CHECKING:
    from mlcycle_nb.training.job_folder import JobFolder, JobSpec

MAX_NODES = 64
STORE_TIMEOUT = timedelta(seconds=60)
"""How long a single answer of the store may take."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where and how the hosts of one attempt meet; written by the first one once it listens.

    Attributes
    ----------
    host, port
        Of the store.
    prefix : str
        Begins every key: a process of another job that came to the wrong port takes part in nothing.
    marker : str
        Marks the processes of the other hosts as this workspace's.
    """

    attempt: int
    host: str
    port: int
    prefix: str
    marker: str


def parse_rendezvous(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT``, ``[IPV6]:PORT`` included.

    Raises
    ------
    InvalidInput
        When a part is missing, the port is none, or the address means every interface.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    remedy = f"give an address of this host that the others reach, such as {_example()}"
    if not colon or not host or (":" in host and not text.startswith("[")):
        raise InvalidInput("a rendezvous is HOST:PORT", value=text, where="--rendezvous", remedy=remedy)
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise InvalidInput("the rendezvous has no port from 1 to 65535", value=text, where="--rendezvous")
    try:
        unspecified = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        unspecified = False
    if unspecified:
        problem = "the rendezvous knows no keys, so it is not opened on every interface"
        raise InvalidInput(problem, value=text, where="--rendezvous", remedy=remedy)
    return host, int(port)


def check_nodes(nodes: object, rendezvous: object) -> None:
    """Refuse a number of hosts, or a rendezvous, that cannot be."""
    if isinstance(nodes, bool) or not isinstance(nodes, int) or not 1 <= nodes <= MAX_NODES:
        raise InvalidInput(f"nodes must be a whole number from 1 to {MAX_NODES}", value=nodes, where="--nodes")
    if not isinstance(rendezvous, str):
        raise InvalidInput("a rendezvous is HOST:PORT", value=rendezvous, where="--rendezvous")
    if nodes == 1 and rendezvous:
        problem = "one host needs no rendezvous"
        raise InvalidInput(problem, value=rendezvous, where="--rendezvous", remedy="leave it out, or give --nodes")
    if nodes > 1:
        if not rendezvous:
            remedy = f"give --rendezvous HOST:PORT, an address of this host that the others reach: {_example()}"
            raise InvalidInput(f"{nodes} nodes need a place to meet", where="--nodes", remedy=remedy)
        parse_rendezvous(rendezvous)


def check_listening(rendezvous: str) -> None:
    """Refuse a rendezvous that this host cannot open: before a job is made of it."""
    host, port = parse_rendezvous(rendezvous)
    listen(host, port).close()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on this very address, and on no other.

    Raises
    ------
    InvalidInput
        When the name is unknown, the address is not this host's, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as failure:
        raise InvalidInput("the rendezvous has an unknown host", value=host, where="--rendezvous") from failure
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(128)
    except OSError as failure:
        opened.close()
        raise InvalidInput(
            f"this host cannot listen there: {failure.strerror}",
            value=f"{host}:{port}",
            where="--rendezvous",
            remedy=f"give a free port and an address of this host: {_example()}",
        ) from failure
    return opened


def own_address(host: str, port: int) -> str:
    """Return the address of this host from which it reaches `host`; nothing is sent."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError as failure:
        reason = failure.strerror or str(failure)
        raise Refused(f"this host does not reach the rendezvous {host}:{port}: {reason}") from failure


def interface_of(address: str) -> str:
    """Return the network interface that an address of this host belongs to: gloo and nccl want its name."""
    import psutil

    wanted = ipaddress.ip_address(address)
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family not in (socket.AF_INET, socket.AF_INET6) or not entry.netmask:
                continue
            bare = entry.address.partition("%")[0]
            if wanted == ipaddress.ip_address(bare) or (wanted.is_loopback and ipaddress.ip_address(bare).is_loopback):
                return name
    raise InvalidInput("this host has no such address", value=address, where="--address", remedy=f"it has {_example()}")


def join_command(home: Path, job: str, rendezvous: str, node_rank: int) -> str:
    """Return the line that another host runs to take part."""
    words = ["mlcycle", "--home", str(home), "train", "join", job]
    return shlex.join([*words, "--rendezvous", rendezvous, "--node-rank", str(node_rank)])


# -- in the job's folder -----------------------------------------------------------------------------------------


def nodes_folder(folder: JobFolder) -> Path:
    """Return where the hosts of a job leave word of themselves."""
    return private_folder(folder.path / "nodes")


def announce(folder: JobFolder, meeting: Meeting) -> None:
    """Say where an attempt meets."""
    write_atomically(nodes_folder(folder) / "meeting.json", json.dumps(asdict(meeting)))


def meeting_of(folder: JobFolder) -> Meeting | None:
    """Return where the newest attempt meets, or None before the first host listens."""
    try:
        return Meeting(**json.loads((folder.path / "nodes" / "meeting.json").read_text()))
    except FileNotFoundError:
        return None


def tell_end(folder: JobFolder, phase: str, failure: object) -> None:
    """Tell the other hosts that the job has ended, and how."""
    document = {"phase": phase, "failure": "" if failure is None else str(failure)}
    write_atomically(nodes_folder(folder) / "ended.json", json.dumps(document))


# -- the store ---------------------------------------------------------------------------------------------------


def serve(host: str, port: int) -> Any:
    """Open the store of an attempt on this very address; it ends with the object that is returned."""
    from torch.distributed import TCPStore

    opened = listen(host, port)
    descriptor = opened.detach()  # torch closes it
    try:
        return TCPStore(host, port, None, True, STORE_TIMEOUT, wait_for_workers=False, master_listen_fd=descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def connect(meeting: Meeting, part: str) -> Any:
    """Return a connection of one's own to the store of an attempt, for one part of the keys."""
    from torch.distributed import PrefixStore, TCPStore

    bare = TCPStore(meeting.host, meeting.port, None, False, STORE_TIMEOUT, wait_for_workers=False)
    return PrefixStore(f"{meeting.prefix}/{part}", bare)


def connect_worker(folder: JobFolder, part: str) -> Any:
    """Return a worker's connection to the store of its attempt, which is the newest."""
    meeting = meeting_of(folder)
    assert meeting is not None  # else this worker had not been started
    return connect(meeting, part)


def local_processes(spec: JobSpec) -> int:
    """Return how many of a job's processes run on each host."""
    return spec.processes // spec.nodes


def _example() -> str:
    import psutil

    found = [
        entry.address
        for name, entries in sorted(psutil.net_if_addrs().items())
        for entry in entries
        if entry.family == socket.AF_INET and not ipaddress.ip_address(entry.address).is_loopback
    ]
    return f"{(found or ['127.0.0.1'])[0]}:29500"
