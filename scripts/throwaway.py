"""A workspace for one notebook: its folder, keys and kernels are gone afterwards, with all that it started."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def throwaway_workspace(prefix: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield the folder, and the environment in which a notebook uses a workspace there and shows no widgets."""
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        folder = Path(name)
        environment = {
            **os.environ,
            "MLCYCLE_HOME": str(folder / ".mlcycle"),
            "MLCYCLE_KEYS": str(folder / "keys"),
            "MLCYCLE_CLOCK": "offset",
            "MLCYCLE_LIVE": "0",
            "JUPYTER_DATA_DIR": str(folder / "jupyter"),  # kernels of environments are put there
        }
        try:
            yield folder, environment
        finally:
            if (folder / ".mlcycle").is_dir():
                subprocess.run([Path(sys.executable).with_name("mlcycle"), "down"], env=environment, check=True)
