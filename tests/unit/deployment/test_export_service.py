"""`%deploy REF --export TARGET` and its Python call: the gates, the record, and that nothing is deployed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from mlcycle_nb.deployment.magic import DeploymentMagics
from mlcycle_nb.deployment.records import Gateway, Rollout, Service
from mlcycle_nb.errors import InvalidInput, MLCycleError, Refused
from mlcycle_nb.packages import PackageStore
from mlcycle_nb.store.audit import events

from .test_magics import magics  # noqa: F401 (a fixture)

IMAGE = "registry.example/digits:v2"


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Packages of a format; the real ones are exported in a process test."""
    kind = {"format": "onnx"}
    monkeypatch.setattr(PackageStore, "open", lambda self, digest: SimpleNamespace(**kind))
    return kind


def exported(world: Any) -> list[Any]:
    return [event for event in events(world.context.store) if event["event"] == "rollout.exported"]


class TestService:
    """The Python call."""

    def test_nothing_is_deployed(self, world: Any) -> None:
        """Only the audit trail knows of it."""
        plan = world.deployment.export_plan("digits/2", "argo", "production", image=IMAGE, steps="10,100")

        assert (plan.target, plan.reference, plan.strategy) == ("argo", "digits/2", "canary")
        assert [world.context.store.find(kind) for kind in (Rollout, Service, Gateway)] == [[], [], []]
        (entry,) = exported(world)
        assert (entry["subject"], entry["detail"]["target"], entry["detail"]["overridden"]) == (
            "model:digits/2",
            "argo",
            "",
        )

    def test_compared_with_what_is_stable(self, world: Any) -> None:
        """The stable version of the environment, by name; the version itself is never compared with itself."""
        world.deploy(1)
        world.settle()

        assert 'version="1"' in world.deployment.export_plan("digits/2", "argo", image=IMAGE).text
        assert 'version!="1"' in world.deployment.export_plan("digits/1", "argo", image=IMAGE).text

    def test_the_gates(self, world: Any) -> None:
        """A file is no way around them; what is forced is recorded."""
        world.gates.refused[2] = "no verdict"

        with pytest.raises(Refused, match="may not go to production"):
            world.deployment.export_plan("digits/2", "argo")
        with pytest.raises(InvalidInput, match="--force needs a reason"):
            world.deployment.export_plan("digits/2", "argo", force=True)
        assert exported(world) == []
        world.deployment.export_plan("digits/2", "argo", force=True, reason="rehearsal")
        (entry,) = exported(world)
        assert (entry["detail"]["overridden"], entry["reason"]) == ("no verdict", "rehearsal")

    def test_a_refused_plan_writes_nothing(self, world: Any, tmp_path: Path) -> None:
        """No file, no entry."""
        with pytest.raises(Refused, match="replica by replica"):
            world.deployment.export_plan("digits/2", "flagger", "staging", to=tmp_path / "out")

        assert not (tmp_path / "out").exists()
        assert exported(world) == []

    def test_python_packages(self, world: Any, packages: dict[str, str]) -> None:
        """Their replica is told whose signature it may trust; one of ONNX is told nobody's."""
        plain = replica_configuration(world.deployment.export_plan("digits/2", "argo").text)
        packages["format"] = "python"
        signed = replica_configuration(world.deployment.export_plan("digits/2", "argo").text)

        assert plain["trusted_keys"] == []
        assert len(signed["trusted_keys"]) == 1
        assert len(signed["trusted_keys"][0]) == 64

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"target": "argo", "storage": "pvc://a/b"}, "--storage.*--export kserve"),
            ({"target": "kserve", "prometheus": "http://p:9090"}, "--prometheus goes with --image"),
            ({"target": "argo", "replicas": 0}, "--replicas"),
            ({"target": "argo", "steps": "12.5,100"}, "whole percentages"),
        ],
    )
    def test_options_that_do_not_fit(self, world: Any, options: dict[str, Any], words: str) -> None:
        """One line each."""
        with pytest.raises(InvalidInput, match=words):
            world.deployment.export_plan("digits/2", **options)
        assert exported(world) == []


def replica_configuration(text: str) -> dict[str, Any]:
    (configuration,) = [m for m in yaml.safe_load_all(text) if m["kind"] == "ConfigMap"]
    return dict(yaml.safe_load(configuration["data"]["replica.json"]))


class TestMagic:
    """`%deploy --export`."""

    def test_into_a_folder(self, world: Any, magics: DeploymentMagics, tmp_path: Path) -> None:  # noqa: F811
        """What the options say reaches the files."""
        plan = magics.deploy(
            f"digits/2 --export flagger --env production --steps 10,50,100 --interval 90s --min-requests 40 "
            f"--image {IMAGE} --namespace ml --prometheus http://prom.monitoring:9090 --to {tmp_path / 'out'}"
        )

        (path,) = (tmp_path / "out").iterdir()
        assert plan.folder == tmp_path / "out"
        (canary,) = [m for m in yaml.safe_load_all(path.read_text()) if m["kind"] == "Canary"]
        assert canary["spec"]["analysis"]["stepWeights"] == [10, 50]
        assert canary["spec"]["analysis"]["interval"] == "90s"
        assert canary["metadata"]["namespace"] == "ml"
        assert "address: 'http://prom.monitoring:9090'" in path.read_text()
        assert world.context.store.find(Rollout) == []

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("digits/2 --export argoo", r"unknown target.*did you mean 'argo'"),
            ("digits/2 --to out", r"goes with --export.*'--to'"),
            ("digits/2 --image a/b:c", r"goes with --export.*'--image'"),
            ("digits/2 --export argo --simulate 24h", r"deploys nothing here.*--simulate"),
            ("digits/2 --export argo --supersede", r"deploys nothing here.*--supersede"),
            ("digits/2 --export argo --namespace A", r"namespace.*--namespace"),
            ("digits/2 --export argo --image :x", r"not a container image"),
            ("digits/99 --export argo", r"no such version"),
            ("--export argo", r"%deploy needs MODEL/VERSION"),
        ],
    )
    def test_bad_lines(self, world: Any, magics: DeploymentMagics, line: str, words: str) -> None:  # noqa: F811
        """One line, and nothing is deployed or exported."""
        with pytest.raises(MLCycleError, match=words) as refused:
            magics.deploy(line)

        assert "\n" not in str(refused.value)
        assert world.context.store.find(Rollout) == []
        assert exported(world) == []
