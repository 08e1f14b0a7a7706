"""How long it takes until a notebook can begin: ``%load_ext`` beside a bare IPython, and a stored change."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

RUNS = 7
_PROGRAM = """
import time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
began = time.perf_counter()
shell.run_line_magic('load_ext', {extension!r})
print(time.perf_counter() - began)
"""


def main() -> None:
    """Print the medians."""
    ours = statistics.median(_load("mlcycle_nb") for _ in range(RUNS))
    light = statistics.median(_load("autoreload") for _ in range(RUNS))
    print(f"%load_ext mlcycle_nb: {ours:.3f} s (aim 0.3); %load_ext autoreload: {light:.3f} s")
    print(f"one stored change with its signed audit entry: {_change() * 1e3:.2f} ms")


def _load(extension: str) -> float:
    program = _PROGRAM.format(extension=extension)
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(shown.stdout)


def _change() -> float:
    from mlcycle_nb.context import open_context
    from mlcycle_nb.deployment.records import Gateway
    from mlcycle_nb.settings import load_settings

    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLCYCLE_KEYS"] = f"{folder}/keys"
        context = open_context(Path(folder) / "workspace", load_settings(environ={}))
        with context.store.transaction(actor="bench") as transaction:
            record = transaction.insert(
                Gateway(id="dev", phase="running", created_at=context.clock.now()), event="gateway.declared"
            )
        times = []
        for turn in range(200):
            began = time.perf_counter()
            with context.store.transaction(actor="bench") as transaction:
                record = transaction.update(replace(record, phase=f"p{turn}"), event="gateway.changed")
            times.append(time.perf_counter() - began)
        context.store.close()
    return statistics.median(times)
