"""How a job's processes are started: torchrun in a session of its own, on loopback, restarted by nobody but us."""

from __future__ import annotations

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
    rendezvous = folder.run / f"rendezvous-{attempt}"
    argv = (
        spec.python,
        "-m",
        "torch.distributed.run",
        "--nnodes=1",
        f"--nproc-per-node={spec.processes}",
        "--max-restarts=0",
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
    env = {
        "OMP_NUM_THREADS": str(spec.threads),
        "MKL_NUM_THREADS": str(spec.threads),
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "PYTHONHASHSEED": str(spec.seed % 2**32),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    return LaunchPlan(argv, env)


def threads_for(processes: int) -> int:
    """Return how many threads each of `processes` gets of the cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)
