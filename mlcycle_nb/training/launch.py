"""How a job's processes are started: torchrun in a session of its own, on loopback, restarted by nobody but us."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from mlcycle_nb.training.job_folder import JobFolder, JobSpec


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """A command and the variables added to its environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


def process_name(job: str, attempt: int) -> str:
    """Return the name of an attempt's launcher in the process table."""
    return f"training-{job}-{attempt}"


def plan_launch(folder: JobFolder, spec: JobSpec, attempt: int) -> LaunchPlan:
    """Return how attempt number `attempt` is started.

    The rendezvous goes through files in the job's folder: torchrun's store would listen on every interface. Its own
    restarts are off, because they recovered fewer than half of the crashes they were tried on.
    """
    if spec.nodes > 1:
        return node_plan(folder, spec, attempt, 0, _own_address(spec), python=spec.python)
    rendezvous = folder.run / f"rendezvous-{attempt}"
    argv = (
        spec.python,
        "-m",
        "torch.distributed.run",
        "--nnodes=1",
        f"--nproc-per-node={spec.processes}",
        "--max-restarts=0",
        f"--log-dir={folder.launcher_files}",
        "--monitor-interval=0.1",
        "--rdzv-backend=c10d",
        "--rdzv-conf=store_type=file",
        f"--rdzv-endpoint={rendezvous}",
        f"--rdzv-id={spec.job}-{attempt}",
        "--local-addr=127.0.0.1",
        "-m",
        "mlcycle_nb.training.worker",
        str(folder.path),
        f"--attempt={attempt}",
    )
    return LaunchPlan(argv, _environment(spec, "lo0" if sys.platform == "darwin" else "lo"))


def node_plan(
    folder: JobFolder, spec: JobSpec, attempt: int, node_rank: int, address: str, *, python: str
) -> LaunchPlan:
    """Return how one host of several takes part in an attempt; `address` is its own on the network they share."""
    from mlcycle_nb.training.nodes import interface_of

    argv = (
        python,
        "-m",
        "mlcycle_nb.training.node_agent",
        str(folder.path),
        f"--attempt={attempt}",
        f"--node-rank={node_rank}",
        f"--address={address}",
    )
    return LaunchPlan(argv, _environment(spec, interface_of(address)))


def _own_address(spec: JobSpec) -> str:
    from mlcycle_nb.training.nodes import own_address, parse_rendezvous

    return own_address(*parse_rendezvous(spec.rendezvous))


def _environment(spec: JobSpec, interface: str) -> dict[str, str]:
    return {
        "OMP_NUM_THREADS": str(spec.threads),
        "MKL_NUM_THREADS": str(spec.threads),
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        # Through the environment, because older releases of torchrun do not know these options.
        "PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",  # each is passed on to the workers
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(math.ceil(spec.grace_seconds) + 5),
        "PYTHONHASHSEED": str(spec.seed % 2**32),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }


def threads_for(processes: int) -> int:
    """Return how many threads each of `processes` gets of the cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)
