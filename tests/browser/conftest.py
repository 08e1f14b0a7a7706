"""A real JupyterLab in headless Chromium, with everything but loopback cut off."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pytest

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests say why they are skipped; in CI a missing browser is a failure."""
    for item in items:
        if "tests/browser" not in str(item.path):
            continue
        item.add_marker(pytest.mark.browser)
        if not Path(CHROMIUM).exists() and os.environ.get("CI") != "true":
            item.add_marker(pytest.mark.skip(reason="Chromium is not installed: apt-get install chromium"))


@dataclass
class Lab:
    """One JupyterLab page and what it asked of other hosts."""

    page: Any
    root: Path
    outside: list[str] = field(default_factory=list)

    def open(self, name: str, cells: list[str]) -> None:
        """Write a notebook of these code cells and open it, kernel ready."""
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        nbformat.write(notebook, self.root / name)
        self.open_file(name)

    def open_file(self, name: str) -> None:
        """Open a notebook of the root folder, kernel ready."""
        self.page.evaluate(
            """async name => {
              const widget = await jupyterapp.commands.execute('docmanager:open', {path: name});
              await widget.context.ready; await widget.sessionContext.ready;
              await widget.sessionContext.session.kernel.info; window.notebook = widget; }""",
            name,
        )

    def reload(self, name: str) -> None:
        """Save the notebook, load the page anew, and open the notebook again: outputs come from the file."""
        self.page.evaluate("jupyterapp.commands.execute('docmanager:save').then(() => null)")
        self.page.reload()
        self.page.wait_for_function("window.jupyterapp && window.jupyterapp.restored")
        self.page.evaluate("window.jupyterapp.restored.then(() => null)")
        self.open_file(name)

    def run(self, cell: int, *, wait: bool = True) -> None:
        """Run one cell, through the application's own command."""
        self.page.evaluate(
            """([cell, wait]) => { notebook.content.activeCellIndex = cell;
              const done = jupyterapp.commands.execute('notebook:run-cell');
              return wait ? done.then(() => null) : null; }""",
            [cell, wait],
        )

    def output(self, cell: int) -> Any:
        """Return the output area of a cell."""
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(cell).locator(".jp-OutputArea")

    def wait_for_text(self, text: str, timeout: float = 60.0) -> None:
        """Wait until an output shows `text`; the cells' own source does not count."""
        self.page.wait_for_function(
            """text => [...document.querySelectorAll('.jp-OutputArea')].some(o => o.textContent.includes(text))""",
            arg=text,
            timeout=timeout * 1000,
        )


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A fresh JupyterLab with settings, workspaces and keys of its own."""
    from playwright.sync_api import sync_playwright

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = (
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_RUNTIME_DIR",
        "JUPYTERLAB_SETTINGS_DIR",
        "JUPYTERLAB_WORKSPACES_DIR",
        "IPYTHONDIR",
    )
    environment = dict(os.environ, **{name: str(tmp_path / name.lower()) for name in own})
    environment["PYTHONPATH"] = ""
    root = tmp_path / "root"
    root.mkdir()
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jupyterlab",
                "--no-browser",
                "--allow-root",
                "--ip=127.0.0.1",
                f"--port={port}",
                "--IdentityProvider.token=",
                "--expose-app-in-browser",
                "--LabApp.news_url=None",
                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
                f"--ServerApp.root_dir={root}",
            ],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_for_server(port, server)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
            page = browser.new_page(viewport={"width": 1280, "height": 1400})
            page.set_default_timeout(180_000)
            opened = Lab(page, root)
            page.on("request", lambda request: _note_outside(opened, request.url))
            page.goto(f"http://127.0.0.1:{port}/lab?reset")
            page.wait_for_function("window.jupyterapp && window.jupyterapp.restored")
            page.evaluate("window.jupyterapp.restored.then(() => null)")
            try:
                yield opened
            finally:
                shots = os.environ.get("MLCYCLE_SCREENSHOTS")
                if shots:
                    page.screenshot(path=str(Path(shots) / "last.png"))
                browser.close()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)
        _down(root)


def _wait_for_server(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab ended with {server.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5)
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("JupyterLab did not answer within 60 s")


def _note_outside(lab: Lab, url: str) -> None:
    if "//127.0.0.1" not in url and not url.startswith(("data:", "blob:")):
        lab.outside.append(url)


def _down(root: Path) -> None:
    from mlcycle_nb.workspace import Workspace

    for home in root.glob("**/.mlcycle"):
        with Workspace.open(home) as workspace:
            workspace.down()
