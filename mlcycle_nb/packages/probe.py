"""Loads a package in a fresh interpreter and answers its golden batch: ``python -m mlcycle_nb.packages.probe``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlcycle_nb.packages.package import Package

TIMEOUT_SECONDS = 120.0


def probe(
    package: Package, trusted_keys: Sequence[str], *, python: str = "", timeout_seconds: float = TIMEOUT_SECONDS
) -> str:
    """Return why the package fails in a process of its own, or nothing when it answers its golden batch.

    `python` is the interpreter of that process; this one's by default.
    """
    argv = [
        python or sys.executable,
        "-m",
        "mlcycle_nb.packages.probe",
        str(package.path),
        package.digest,
        *trusted_keys,
    ]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {timeout_seconds:g} s"
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = done.stderr.strip().splitlines()
        return f"exit code {done.returncode}: {last[-1] if last else 'no output'}"
    return str(answer["problem"])


def main(arguments: Sequence[str]) -> int:
    """Answer as one JSON line."""
    from mlcycle_nb.errors import MLCycleError
    from mlcycle_nb.packages import code_permit
    from mlcycle_nb.packages.package import open_package
    from mlcycle_nb.packages.runtime import check_golden, load_runtime

    path, digest, *trusted_keys = arguments
    code_permit.grant()
    try:
        package = open_package(Path(path), digest)
        check_golden(package, load_runtime(package, trusted_keys=trusted_keys))
        problem = ""
    except MLCycleError as failure:
        problem = str(failure)
    print(json.dumps({"problem": problem}))
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
