"""A real kernel that is driven as JupyterLab drives it: each execution names its cell, and the cells deleted before."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

SECONDS = 170


class Kernel:
    """One kernel and the notebook that it belongs to."""

    def __init__(self, client: BlockingKernelClient, notebook: Path) -> None:
        self._client, self._notebook = client, notebook

    def run(self, cell: str, source: str, *, deleted: Sequence[str] = (), fails: bool = False) -> str:
        """Execute a cell and return what it printed or showed as plain text."""
        content = {"code": source, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        message = self._client.session.msg("execute_request", content | {"stop_on_error": True})
        message["metadata"] = {"cellId": cell, "deletedCells": list(deleted)}
        self._client.shell_channel.send(message)
        texts: list[str] = []
        while True:
            answer = self._client.get_iopub_msg(timeout=SECONDS)
            if answer["parent_header"].get("msg_id") != message["header"]["msg_id"]:
                continue
            about: dict[str, Any] = answer["content"]
            if answer["msg_type"] == "stream":
                texts.append(about["text"])
            elif answer["msg_type"] in {"execute_result", "display_data"}:
                texts.append(about["data"].get("text/plain", ""))
            elif answer["msg_type"] == "error":
                assert fails, "\n".join(about["traceback"])
                texts.append(f"{about['ename']}: {about['evalue']}")
            elif answer["msg_type"] == "status" and about["execution_state"] == "idle":
                self._client.get_shell_msg(timeout=SECONDS)
                return "".join(texts)

    def save(self, *cells: tuple[str, str]) -> None:
        """Save the notebook with these cells, ids and texts, in this order."""
        made = [nbformat.v4.new_code_cell(text, id=cell) for cell, text in cells]
        nbformat.write(nbformat.v4.new_notebook(cells=made), self._notebook)


@contextmanager
def kernel(folder: Path, **variables: str) -> Iterator[Kernel]:
    """Start a kernel in `folder`, for the notebook ``notebook.ipynb`` there."""
    notebook = folder / "notebook.ipynb"
    environment = {**os.environ, "JPY_SESSION_NAME": str(notebook), "MLCYCLE_LIVE": "0", **variables}
    manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "k"))
    manager.start_kernel(cwd=str(folder), env=environment)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield Kernel(client, notebook)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
