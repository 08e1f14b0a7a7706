"""The pod of an exported plan, run here: its two commands with its configuration, asked over its port."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from mlcycle_nb.cli import main
from mlcycle_nb.deployment.export.manifest import ExportedPlan
from mlcycle_nb.serving.gateway.binary import envoy_binary
from mlcycle_nb.workspace import Workspace

from .conftest import ENVIRONMENT, Built, Deployed, until

pytestmark = pytest.mark.timeout(120)


class Pod:
    """The containers of a pod as processes; what Kubernetes mounts is put where the test may write."""

    def __init__(self, plan: ExportedPlan, package: Path, folder: Path) -> None:
        found = list(yaml.safe_load_all(plan.text))
        (configuration,) = [m for m in found if m["kind"] == "ConfigMap"]
        (rollout,) = [m for m in found if m["kind"] == "Rollout"]
        self.spec: dict[str, Any] = rollout["spec"]["template"]["spec"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        replaced = {"/run/mlcycle": str(folder), "/package": str(package), "0.0.0.0": "127.0.0.1"}
        for name, text in configuration["data"].items():
            form = _replaced(json.loads(text), replaced, self.port)
            (folder / name).write_text(json.dumps(form))
        programs = {"python": sys.executable, "envoy": str(envoy_binary())}
        self.processes = []
        for container in self.spec["containers"]:
            command = [programs.get(word, word.replace("/etc/mlcycle", str(folder))) for word in container["command"]]
            log = (folder / f"{container['name']}.log").open("wb")
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))
            log.close()
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20, trust_env=False)

    def probe(self, name: str) -> bool:
        """Ask what a probe of the first container asks."""
        path = self.spec["containers"][0][name]["httpGet"]["path"]
        try:
            return self.http.get(path).status_code == 200
        except httpx.TransportError:
            return False

    def end(self) -> list[int]:
        """Stop both as Kubernetes would, the replica first; return the exit codes."""
        self.http.close()
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        return [process.wait(20) for process in self.processes]


def _replaced(form: Any, replaced: dict[str, str], port: int) -> Any:
    if isinstance(form, dict):
        return {k: port if k == "port_value" else _replaced(v, replaced, port) for k, v in form.items()}
    if isinstance(form, list):
        return [_replaced(item, replaced, port) for item in form]
    if isinstance(form, str):
        for old, new in replaced.items():
            form = form.replace(old, new) if form.startswith(old) else form
    return form


@pytest.fixture
def plan(deployed: Deployed) -> ExportedPlan:
    return deployed.manager.export_plan("digits/1", "argo", ENVIRONMENT, "canary", image="registry.example/digits:v1")


@pytest.fixture
def pod(plan: ExportedPlan, deployed: Deployed, built: Built) -> Iterator[Pod]:
    packages = deployed.workspace.context.folder("packages")
    from mlcycle_nb.packages import PackageStore

    with tempfile.TemporaryDirectory(prefix="mlc-") as folder:  # a socket's path has to be short
        running = Pod(plan, PackageStore(packages).path_of(built.digests[1]), Path(folder))
        try:
            until(lambda: running.probe("startupProbe"), 40)
            yield running
        except AssertionError:
            print(*(path.read_text()[-2000:] for path in Path(folder).glob("*.log")), sep="\n")
            raise
        finally:
            codes = running.end()
    assert codes == [0, 0]


def test_it_answers_and_counts(pod: Pod, plan: ExportedPlan, built: Built) -> None:
    """Predictions by the pod's port; what the queries read is exported, with the labels that they ask for."""
    rows = built.rows[:3].tolist()
    tensor = {"name": "input", "datatype": "FP32", "shape": [3, 64], "data": [value for row in rows for value in row]}
    for _ in range(5):
        answer = pod.http.post("/v2/models/digits/infer", json={"inputs": [tensor]})
        assert answer.status_code == 200, answer.text
    assert answer.headers["x-model-version"] == "1"
    assert pod.probe("readinessProbe")
    assert pod.probe("livenessProbe")
    annotations = next(m for m in yaml.safe_load_all(plan.text) if m["kind"] == "Rollout")["spec"]["template"][
        "metadata"
    ]
    text = pod.http.get(annotations["annotations"]["prometheus.io/path"]).text

    (query,) = set(re.findall(r"sum\((mlcycle_replica_latency_ms_count\{[^}]*version=\"1\"\})\) \+", plan.text))
    labels = dict(re.findall(r'(\w+)="([^"]*)"', query))
    lines = [line for line in text.splitlines() if line.startswith("mlcycle_replica_latency_ms_count{")]
    assert [line.rsplit(" ", 1)[1] for line in lines if all(f'{k}="{v}"' in line for k, v in labels.items())] == ["5"]


def test_the_command(deployed: Deployed, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """`mlcycle export` prints the files, or writes them; exit code 2 and one line when it is refused."""
    monkeypatch.setattr(Workspace, "deployment", deployed.manager)
    home = str(deployed.workspace.home)

    assert main(["--home", home, "export", "digits/1", "kserve", "--env", ENVIRONMENT, "--steps", "20,100"]) == 0
    printed = capsys.readouterr().out
    shares = [m["spec"]["predictor"].get("canaryTrafficPercent") for m in yaml.safe_load_all(printed)]
    assert shares == [20, None]
    arguments = ["--home", home, "export", "digits/1", "argo", "--env", ENVIRONMENT]
    assert main([*arguments, "--strategy", "rolling", "--to", str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["digits-staging-v1-argo.yaml"]
    assert str(tmp_path) in capsys.readouterr().out
    assert main([*arguments, "--steps", "12.5,100"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
