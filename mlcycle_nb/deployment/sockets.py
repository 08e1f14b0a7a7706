"""Names of replicas and of the process that takes labels: their processes and their sockets."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mlcycle_nb.supervisor.sockets import socket_folder, socket_path


def process_name(environment: str, model: str, version: int, index: int) -> str:
    """Return the name of a replica's process."""
    # Dots are in no name, so two replicas never share one.
    return f"replica-{environment}.{model}.{version}.{index}"


def replica_socket(home: Path, environment: str, model: str, version: int, index: int) -> Path:
    """Return the socket that a replica listens on; short, because the kernel allows 107 bytes for the whole path."""
    digest = hashlib.sha256(f"{environment}/{model}/{version}".encode()).hexdigest()[:12]
    return socket_folder(home) / f"r{digest}-{index}.sock"


def intake_name(environment: str) -> str:
    """Return the name of the process that takes labels."""
    return f"labels-{environment}"


def intake_socket(home: Path, environment: str) -> Path:
    """Return the socket that it listens on."""
    return socket_path(home, intake_name(environment))
