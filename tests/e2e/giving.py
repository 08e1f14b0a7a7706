"""The ways in which a person or a program gives something to the workspace; each returns the one error it got."""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.store.audit import entries
from mlcycle_nb.workspace import Workspace

from .conftest import MODEL, Served

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
GATES = "gates: [{check: accuracy, min: 0.5}]\n"
Content = str | bytes | Callable[[Path], None]


@dataclass
class Lab:
    """What the ways of giving need: a notebook's shell, a folder, and a served model."""

    shell: Any
    folder: Path
    served: Served

    @property
    def workspace(self) -> Workspace:
        """The workspace that must stay as it is."""
        return self.served.workspace

    def file(self, name: str, content: Content) -> Path:
        """Make a file, or whatever `content` puts at its path."""
        path = self.folder / name
        if callable(content):
            content(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def state(self) -> tuple[dict[str, int], list[str]]:
        """Records by kind, and processes."""
        return self.workspace.store.counts(), self.workspace.context.processes.names()

    def audited(self, after: int = 0) -> list[tuple[int, str]]:
        """Audit entries behind a sequence number."""
        return [(e.sequence, json.loads(e.body)["event"]) for e in entries(self.workspace.store, after=after)]

    def run(self, cell: str) -> str:
        """Run a cell that must be refused: one line is shown, nothing changes, one audit entry tells of it."""
        before, last = self.state(), max((sequence for sequence, _ in self.audited()), default=0)
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            result = self.shell.run_cell(cell)
        error = result.error_in_exec or result.error_before_exec
        text = COLOUR.sub("", shown.getvalue()).strip()

        assert error is not None, f"nothing was refused: {text[:500]}"
        assert isinstance(error, MLCycleError), f"{type(error).__name__}: {error}\n{text[-2000:]}"
        assert text == f"{type(error).__name__}: {error}", "more was shown than the error's own line"
        assert self.state() == before
        assert [event for _, event in self.audited(after=last)] == ["rejected"]
        return str(error)


@dataclass(frozen=True)
class Cell:
    """A cell in a notebook: a magic line, or a cell magic."""

    text: str

    def give(self, lab: Lab) -> str:
        """Run it."""
        return lab.run(self.text)


@dataclass(frozen=True)
class GatesFile:
    """A gates file, given to ``%validate``."""

    content: Content

    def give(self, lab: Lab) -> str:
        """Validate version 1 by it."""
        path = lab.file("gates.yaml", self.content)
        return lab.run(f"%validate {MODEL}/1 --gates {path} --data held_out")


@dataclass(frozen=True)
class DataFile:
    """A file of rows, given to ``%validate``."""

    name: str
    content: Content
    options: str = ""

    def give(self, lab: Lab) -> str:
        """Validate version 1 on it."""
        gates, data = lab.file("gates.yaml", GATES), lab.file(self.name, self.content)
        return lab.run(f"%validate {MODEL}/1 --gates {gates} --data {data} {self.options.format(folder=lab.folder)}")


@dataclass(frozen=True)
class SettingsFile:
    """``mlcycle.toml`` beside a workspace that is about to be made."""

    content: Content

    def give(self, lab: Lab) -> str:
        """Open the workspace."""
        lab.file("mlcycle.toml", self.content)
        error = refusal(lambda: Workspace.open(lab.folder / ".mlcycle"))
        assert not (lab.folder / ".mlcycle").exists(), "a refused workspace was made"
        return error


@dataclass(frozen=True)
class Call:
    """A call of the Python interface."""

    call: Callable[[Lab], object]

    def give(self, lab: Lab) -> str:
        """Make it."""
        before = lab.state()
        error = refusal(lambda: self.call(lab))
        assert lab.state() == before
        return error


@dataclass(frozen=True)
class Request:
    """An HTTP request to the gateway with a good key."""

    body: bytes = b""
    method: str = "POST"
    path: str = f"/v2/models/{MODEL}/infer"
    headers: Mapping[str, str] = field(default_factory=dict)

    def give(self, lab: Lab) -> str:
        """Send it; the answer is a problem in JSON, and the model answers the next request."""
        headers = {"content-type": "application/json", **lab.served.authorized, **self.headers}
        with httpx.Client(base_url=lab.served.url, trust_env=False, timeout=20) as client:
            answer = client.request(self.method, self.path, content=self.body, headers=headers)
            good = client.post(
                f"/models/{MODEL}/invocations",
                json={"inputs": lab.served.rows[:1].tolist()},
                headers=lab.served.authorized,
            )
        assert good.status_code == 200, "the model no longer answers"
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["status"] == answer.status_code
        assert "\n" not in problem["detail"]
        assert str(lab.workspace.home) not in answer.text
        return f"{answer.status_code} {problem['code']} {problem['detail']}"


@dataclass(frozen=True)
class Bytes:
    """Bytes on the gateway's port; HOST and KEY stand for the right ones."""

    content: bytes

    def give(self, lab: Lab) -> str:
        """Send them and read until the gateway closes."""
        host, _, port = lab.served.address.partition(":")
        content = self.content.replace(b"HOST", lab.served.address.encode()).replace(b"KEY", lab.served.key.encode())
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(content)
            answer = b""
            try:
                while part := connection.recv(65536):
                    answer += part
            except ConnectionResetError:  # it closed before it had read all that was sent
                assert answer
        assert answer.count(b"HTTP/1.1 ") == 1, answer[:500]
        return answer.split(b"\r\n", 1)[0].decode()


def refusal(call: Callable[[], object]) -> str:
    """Return the one line of the error that `call` raises."""
    try:
        made = call()
    except MLCycleError as refused:
        text = str(refused)
        assert "\n" not in text
        return text
    raise AssertionError(f"nothing was refused: {made!r}")
