"""One host's launcher in a job of several: torchrun with our rendezvous.

``python -m mlcycle_nb.training.node_agent FOLDER --attempt N --node-rank R --address A``
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from pathlib import Path
from typing import Any

from mlcycle_nb.errors import EngineError, MLCycleError
from mlcycle_nb.training import nodes
from mlcycle_nb.training.job_folder import JobFolder, JobSpec
from mlcycle_nb.training.ownership import die_with_parent

OWNED = "MLCYCLE_ANY_PARENT"
"""Set by `join`: the launcher ends with it. The first host's launcher outlives its supervisor instead."""


def main() -> int:
    """Run this host's part of one attempt; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--node-rank", type=int, required=True)
    parser.add_argument("--address", required=True)
    arguments = parser.parse_args()
    if os.environ.get(OWNED) == "1":
        die_with_parent()
        del os.environ[OWNED]  # the workers look at their own parent
    folder = JobFolder(arguments.folder)
    return _run(folder, folder.read_spec(), arguments.attempt, arguments.node_rank, arguments.address)


def _run(folder: JobFolder, spec: JobSpec, attempt: int, node_rank: int, address: str) -> int:
    # Imported here: the death of the parent has to be noticed before torch is loaded.
    import torch.distributed.run
    from torch.distributed.elastic.rendezvous import rendezvous_handler_registry

    from mlcycle_nb.training import node_rendezvous

    handler = None
    try:
        handler = node_rendezvous.NodeRendezvous(
            folder, spec, _meeting(folder, spec, attempt, node_rank), node_rank, address
        )
        if node_rank == 0:
            handler.host()
        made = handler

        def make(parameters: Any) -> Any:
            return made

        rendezvous_handler_registry.register(node_rendezvous.BACKEND, make)
        torch.distributed.run.main(list(_torchrun(folder, spec, attempt, node_rank, address)))
    except MLCycleError as refused:
        print(refused, file=sys.stderr, flush=True)
        if node_rank == 0:
            node_rendezvous.explain(folder, attempt, refused)
        if handler is not None:
            handler.shutdown()
        return 3
    except BaseException as failure:  # a failed worker ends torchrun with an error or with SystemExit
        print(f"mlcycle: {type(failure).__name__}", file=sys.stderr, flush=True)
        if handler is not None:
            handler.fail()
        return 1
    return 0


def _meeting(folder: JobFolder, spec: JobSpec, attempt: int, node_rank: int) -> nodes.Meeting:
    if node_rank > 0:
        found = nodes.meeting_of(folder)
        if found is None or found.attempt != attempt:
            raise EngineError(f"attempt {attempt} is over", where=spec.job)
        return found
    host, port = nodes.parse_rendezvous(spec.rendezvous)
    workspace = os.environ.get("MLCYCLE_PROCESS", "").partition("/")[0]
    marker = f"{workspace}/training-{spec.job}-node" if workspace else ""
    return nodes.Meeting(attempt, host, port, secrets.token_hex(16), marker)


def _torchrun(folder: JobFolder, spec: JobSpec, attempt: int, node_rank: int, address: str) -> tuple[str, ...]:
    return (
        f"--nnodes={spec.nodes}",
        f"--node-rank={node_rank}",
        f"--nproc-per-node={nodes.local_processes(spec)}",
        "--max-restarts=0",
        f"--log-dir={folder.launcher_files}",
        "--monitor-interval=0.1",
        "--rdzv-backend=mlcycle",
        f"--rdzv-endpoint={spec.rendezvous}",
        f"--rdzv-id={spec.job}-{attempt}",
        f"--local-addr={address}",
        "-m",
        "mlcycle_nb.training.worker",
        str(folder.path),
        f"--attempt={attempt}",
    )


if __name__ == "__main__":
    sys.exit(main())
