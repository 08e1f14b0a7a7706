"""Jobs on several hosts: two launchers on loopback, and two network namespaces where the machine lets us make them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from mlcycle_nb.errors import InvalidInput, JobFailed, Refused
from mlcycle_nb.supervisor.processes import MARKER
from mlcycle_nb.training import nodes
from mlcycle_nb.training.join import join
from mlcycle_nb.training.launch import threads_for
from mlcycle_nb.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent))

from conftest import CELL, folder_of, held, losses, names, run_alone, until, weights

pytestmark = pytest.mark.timeout(280)
COMMAND = [sys.executable, "-c", "import sys; from mlcycle_nb.cli import main; sys.exit(main())"]


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def joined(
    workspace: Workspace, job: str, *options: str, inside: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """Another host: the command that is printed, in a process of its own."""
    argv = [*inside, *COMMAND, "--home", str(workspace.home), "train", "join", job, *options]
    other = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield other
    finally:
        other.terminate()
        other.communicate(timeout=60)


def marked(workspace: Workspace, name: str) -> list[psutil.Process]:
    """Return the living processes of one name in the process table."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER) == f"{workspace.context.workspace_id}/{name}":
                found.append(process)
        except psutil.Error:
            continue
    return found


def launchers(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if "mlcycle_nb.training.node_agent" in each.cmdline()]


def listening(processes: list[psutil.Process]) -> set[str]:
    """Return the addresses that processes accept connections on."""
    return {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.fixture(scope="module")
def one_host(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights that one host trains with as many processes, each with as many threads."""
    path = tmp_path_factory.mktemp("alone") / "job"
    return weights(run_alone(path, CELL, names(), 2, epochs=2, threads=threads_for(1)))


def test_two_hosts_and_a_killed_launcher(
    workspace: Workspace, tmp_path: Path, one_host: dict[str, torch.Tensor]
) -> None:
    """Killed with -9, the other host's launcher takes all down; all come back, with the weights of one host."""
    gate, port = tmp_path / "gate", free_port("127.0.0.2")
    place = f"127.0.0.2:{port}"
    handle = workspace.training.train_model(
        "digits", CELL, names(), nodes=2, rendezvous=place, epochs=2, params=held(gate), checkpoint_every="5"
    )
    folder = folder_of(workspace, handle.id)
    (command,) = workspace.training.join_commands(handle.id)
    assert command.endswith(f"train join {handle.id} --rendezvous {place} --node-rank 1")
    options = ["--rendezvous", place, "--node-rank", "1", "--address", "127.0.0.1"]
    with joined(workspace, handle.id, *options) as other:
        until(lambda: {rank for rank, step in losses(folder) if step >= 6} == {0, 1})
        first = marked(workspace, f"training-{handle.id}-1")
        second = marked(workspace, f"training-{handle.id}-node-1")
        assert [len(launchers(first)), len(launchers(second))] == [1, 1]
        assert "127.0.0.2" in listening(first)
        assert listening(first + second) <= {"127.0.0.1", "127.0.0.2"}
        with pytest.raises(Refused, match=r"all 2 nodes of .* are taken: node 1 is .* pid"):
            join(workspace.home, handle.id)

        launchers(second)[0].send_signal(signal.SIGKILL)
        gate.touch()
        record = handle.wait(200)
        said, _ = other.communicate(timeout=60)

    assert record.phase == "finished", record
    assert [restart.attempt for restart in record.restarts] == [1]
    assert record.restarts[0].from_step == 5
    assert (record.nodes, record.processes) == (2, 2)
    assert other.returncode == 0, said
    assert "has finished" in said
    ours = weights(folder)
    assert all(torch.equal(ours[name], one_host[name]) for name in one_host)
    assert not marked(workspace, f"training-{handle.id}-node-1")


def test_a_host_that_does_not_come(workspace: Workspace) -> None:
    """The job fails with a line that says who is missing, who is there, and what to run."""
    place = f"127.0.0.1:{free_port('127.0.0.1')}"
    handle = workspace.training.train_model(
        "alone", CELL, names(), nodes=2, rendezvous=place, params={"lr": 0.1}, join_timeout="1s"
    )
    missing = (
        r"node 1 of 2 did not join within 1 s; joined: node 0 \(.* at 127.0.0.1\); on the missing host run: mlcycle"
    )
    with pytest.raises(JobFailed, match=missing):
        handle.result(200)
    assert handle.record.attempt == 1
    assert join(workspace.home, handle.id, say=lambda line: None) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 0}, "nodes must be a whole number"),
        ({"nodes": True}, "nodes must be a whole number"),
        ({"nodes": 2}, "need a place to meet.*--rendezvous HOST:PORT"),
        ({"nodes": 2, "rendezvous": "here"}, "a rendezvous is HOST:PORT"),
        ({"nodes": 2, "rendezvous": "127.0.0.1:0"}, "no port from 1 to 65535"),
        ({"nodes": 2, "rendezvous": "::1:29500"}, "a rendezvous is HOST:PORT"),
        ({"nodes": 2, "rendezvous": "0.0.0.0:29500"}, "not opened on every interface"),
        ({"nodes": 2, "rendezvous": "[::]:29500"}, "not opened on every interface"),
        ({"nodes": 2, "rendezvous": "203.0.113.7:29500"}, "this host cannot listen there"),
        ({"rendezvous": "127.0.0.1:29500"}, "one host needs no rendezvous"),
        ({"nodes": 2, "rendezvous": "127.0.0.1:29500", "join_timeout": "soon"}, "join_timeout"),
    ],
)
def test_refusals(workspace: Workspace, options: dict[str, Any], message: str) -> None:
    """One line each, and no job."""
    with pytest.raises(InvalidInput, match=message):
        workspace.training.train_model("refused", "print(1)", {}, **options)
    assert workspace.training.jobs("refused") == []


def test_a_port_that_is_taken(workspace: Workspace) -> None:
    """It is told before a job is made."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InvalidInput, match="cannot listen there: Address already in use"):
            workspace.training.train_model("refused", "print(1)", {}, nodes=2, rendezvous=place)


def test_joining_what_is_not_there(workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A host without the shared folder is told so; so is a wrong name."""
    from mlcycle_nb.cli import main

    assert main(["--home", str(tmp_path / "absent"), "train", "join", "digits-1"]) == 2
    assert "this host does not see the workspace folder" in capsys.readouterr().err
    assert not (tmp_path / "absent").exists()
    workspace.context.folder("training", "jobs")
    assert main(["--home", str(workspace.home), "train", "join", "digitz-99"]) == 2
    assert "there is no such training job" in capsys.readouterr().err


# -- two hosts with networks of their own ------------------------------------------------------------------------


@pytest.fixture
def two_networks() -> Iterator[str]:
    """A network namespace with a cable to ours: gives its name."""
    ip = shutil.which("ip")
    if os.getuid() != 0 or ip is None:
        pytest.skip("network namespaces need root and the ip command")
    name, ours, theirs = f"mlc{os.getpid()}", f"mlcA{os.getpid()}"[:15], f"mlcB{os.getpid()}"[:15]

    def run(*words: str) -> None:
        done = subprocess.run([ip, *words], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"network namespaces cannot be made here: {done.stderr.strip()}")

    try:
        run("netns", "add", name)
        run("link", "add", ours, "type", "veth", "peer", "name", theirs)
        run("link", "set", theirs, "netns", name)
        run("addr", "add", "10.231.77.1/24", "dev", ours)
        run("link", "set", ours, "up")
        run("-n", name, "addr", "add", "10.231.77.2/24", "dev", theirs)
        run("-n", name, "link", "set", theirs, "up")
        run("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        subprocess.run([ip, "link", "del", ours], capture_output=True)
        subprocess.run([ip, "netns", "del", name], capture_output=True)


def test_two_networks(workspace: Workspace, one_host: dict[str, torch.Tensor], two_networks: str) -> None:
    """Hosts that share nothing but a cable and the folder train the same weights as one host."""
    place = f"10.231.77.1:{free_port('10.231.77.1')}"
    handle = workspace.training.train_model(
        "cable", CELL, names(), nodes=2, rendezvous=place, epochs=2, params={"lr": 0.01}, checkpoint_every="5"
    )
    with joined(workspace, handle.id, inside=("ip", "netns", "exec", two_networks)) as other:
        record = handle.result(200)
        said, _ = other.communicate(timeout=60)

    assert other.returncode == 0, said
    assert "at 10.231.77.2" in said
    assert record.restarts == ()
    ours = weights(folder_of(workspace, handle.id))
    assert all(torch.equal(ours[name], one_host[name]) for name in one_host)


def test_an_address_belongs_to_an_interface() -> None:
    """Loopback has many addresses and one interface; an address of nobody is refused."""
    assert nodes.interface_of("127.0.0.1") == nodes.interface_of("127.0.0.2")
    with pytest.raises(InvalidInput, match="this host has no such address"):
        nodes.interface_of("203.0.113.7")
