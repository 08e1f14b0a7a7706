"""A kernel, as far as a job is concerned: submits it, tells its id, and waits for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import recovering

from mlcycle_nb.workspace import Workspace


def main() -> None:
    """Submit the job that the first argument describes, in the workspace that the second names."""
    request = json.loads(sys.argv[1])
    workspace = Workspace.open(Path(sys.argv[2]))
    handle = workspace.training.train_model("digits", recovering.CELL, recovering.names(), **request)
    print(handle.id, flush=True)
    handle.wait(300)


if __name__ == "__main__":
    main()
