"""Rollout plans as manifests: what a cluster's projects accept, and what of a plan is in them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mlcycle_nb.deployment.export.manifest import SIGN, ExportedPlan, to_yaml
from mlcycle_nb.deployment.export.names import (
    check_image,
    check_namespace,
    check_prometheus,
    check_storage,
    object_name,
)
from mlcycle_nb.deployment.export.prepare import export
from mlcycle_nb.deployment.export.queries import FAILURES, judged, requests
from mlcycle_nb.deployment.export.wish import PROMETHEUS, check_target
from mlcycle_nb.deployment.records import DeploymentStrategy
from mlcycle_nb.errors import InvalidInput, MLCycleError, Refused
from mlcycle_nb.serving.counters import Counters

from .export_cases import AT_ONCE, BLUE_GREEN, CASES, ROLLING, make_wish

SHADOW = DeploymentStrategy.SHADOW

DIGESTS = Path(__file__).parent / "crds"
SCHEMAS: dict[str, Any] = {
    kind: schema for path in DIGESTS.glob("*.json") for kind, schema in json.loads(path.read_text())["kinds"].items()
}
CORE = {"v1/ConfigMap", "v1/Service", "apps/v1/Deployment"}
POD = SCHEMAS["argoproj.io/v1alpha1/Rollout"]["properties"]["spec"]["properties"]["template"]


def manifests(name: str) -> list[dict[str, Any]]:
    target, wish = CASES[name]
    return documents(export(wish, target))


def documents(plan: ExportedPlan) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(plan.text))


def one(found: list[dict[str, Any]], kind: str, ending: str = "") -> dict[str, Any]:
    (only,) = [m for m in found if m["kind"] == kind and m["metadata"]["name"].endswith(ending)]
    return only["spec"]


def faults(schema: Any, value: Any) -> list[str]:
    return [
        f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in Draft202012Validator(schema).iter_errors(value)
    ]


class TestWhatTheProjectsAccept:
    """The digests in `crds/` were made from the projects' own CRDs by `scripts/crd_digest.py`."""

    @pytest.mark.parametrize("name", CASES)
    def test_every_manifest_fits(self, name: str) -> None:
        """Fields, types, enumerations, required fields and patterns; an unknown field is a fault."""
        found = manifests(name)
        kinds = [f"{m['apiVersion']}/{m['kind']}" for m in found]

        assert set(kinds) <= SCHEMAS.keys() | CORE
        assert set(kinds) & SCHEMAS.keys()
        for kind, manifest in zip(kinds, found, strict=True):
            if kind in SCHEMAS:
                assert faults(SCHEMAS[kind], manifest) == []
            if kind == "apps/v1/Deployment":  # the same type of pod as in a Rollout
                assert faults(POD, manifest["spec"]["template"]) == []

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            (("spec", "analysis", "threshold"), "5"),
            (("spec", "analysis", "interval"), "1 minute"),
            (("spec", "analysis", "stepweights"), [5]),
            (("spec", "provider"), "envoy"),
            (("spec", "targetRef"), {"name": "digits"}),
        ],
    )
    def test_the_check_finds_faults(self, path: tuple[str, ...], value: Any) -> None:
        """Another type, pattern or value, an unknown field, a missing one."""
        (canary,) = [m for m in manifests("flagger-canary") if m["kind"] == "Canary"]
        place = canary
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

        assert faults(SCHEMAS["flagger.app/v1beta1/Canary"], canary) != []

    @pytest.mark.parametrize("name", CASES)
    def test_what_is_named_is_there(self, name: str) -> None:
        """References between objects: configuration, services, templates, ports, the selector of the pods."""
        found = manifests(name)
        names = {(m["kind"], m["metadata"]["name"]) for m in found}
        text = json.dumps(found)

        assert len(names) == len([m for m in found if m["kind"] != "InferenceService"]) + (
            1 if any(m["kind"] == "InferenceService" for m in found) else 0
        )
        for kind, pattern in (
            ("ConfigMap", r'"configMap": {"name": "([^"]+)"'),
            ("AnalysisTemplate", r'"templateName": "([^"]+)"'),
            ("MetricTemplate", r'"templateRef": {"name": "([^"]+)"'),
            ("VirtualService", r'"virtualService": {"name": "([^"]+)"'),
            ("Service", r'"(?:stable|canary|active|preview)Service": "([^"]+)"'),
            ("Service", r'"destination": {"host": "([^"]+)"'),
            ("Deployment", r'"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "([^"]+)"'),
        ):
            assert {(kind, referred) for referred in re.findall(pattern, text)} <= names, kind
        for manifest in found:
            if manifest["kind"] in ("Rollout", "Deployment"):
                labels = manifest["spec"]["template"]["metadata"]["labels"]
                assert manifest["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert all(re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", m["metadata"]["name"]) for m in found)
        assert {m["metadata"].get("namespace") for m in found} == {CASES[name][1].namespace or None}


class TestArgo:
    """Steps, holds, minimum, deadline, bounds."""

    def test_the_steps(self) -> None:
        """Each weight is held, then asked for its requests; the last step, all requests, is the end."""
        strategy = one(manifests("argo-canary"), "Rollout")["strategy"]["canary"]

        assert strategy["steps"][0] == {"setCanaryScale": {"replicas": 2}}
        shown = [(*step.items(),)[0] for step in strategy["steps"][1:]]
        assert [value for key, value in shown if key == "setWeight"] == [5, 25, 50]
        assert [value["duration"] for key, value in shown if key == "pause"] == ["60s"] * 3
        assert [v["args"][0]["value"] for key, v in shown if key == "analysis"] == ["100", "200", "300"]
        assert [key for key, _ in shown] == ["setWeight", "pause", "analysis"] * 3
        assert strategy["steps"][strategy["analysis"]["startingStep"]] == {"pause": {"duration": "60s"}}
        assert strategy["scaleDownDelaySeconds"] == 300

    def test_the_deadline(self) -> None:
        """Measurements until the deadline of a step, after its interval."""
        target, _ = CASES["argo-canary"]
        found = documents(export(make_wish(interval="2m", deadline="12m"), target))
        metrics = one(found, "AnalysisTemplate", "-step")["metrics"]

        assert [m["interval"] for m in metrics] == ["15s"] * 3
        assert metrics[0]["failureLimit"] == 40  # ten minutes
        assert [m["inconclusiveLimit"] for m in metrics[1:]] == [40, 40]

    def test_the_bounds(self) -> None:
        """Good enough to go on, or bad enough to go back; neither below the minimum of requests."""
        found = documents(export(make_wish(max_error_increase="3%", min_requests=250), "argo"))
        error = one(found, "AnalysisTemplate", "-step")["metrics"][1]

        assert error["successCondition"] == "len(result) > 0 && result[0] <= 0.03"
        assert error["failureCondition"] == "len(result) > 0 && result[0] > 0.03"
        assert error["failureLimit"] == 0
        assert error["provider"]["prometheus"]["query"].endswith(">= 250)")
        assert error["provider"]["prometheus"]["address"] == PROMETHEUS

    def test_modes(self) -> None:
        """What is optional holds no step, but sends the version back; what is watched is measured only."""
        optional, watched = manifests("argo-canary-optional"), manifests("argo-canary-all")

        assert [m["name"] for m in one(optional, "AnalysisTemplate", "-step")["metrics"]] == ["requests"]
        both = ["error-rate", "latency-excess-ms"]
        assert [m["name"] for m in one(optional, "AnalysisTemplate", "-watch")["metrics"]] == both
        assert "dryRun" not in one(optional, "AnalysisTemplate", "-watch")
        assert one(watched, "AnalysisTemplate", "-watch")["dryRun"] == [{"metricName": "latency-excess-ms"}]
        assert [m["name"] for m in one(watched, "AnalysisTemplate", "-step")["metrics"]] == ["requests", "error-rate"]

    def test_blue_green(self) -> None:
        """The switch, then measurements for the interval; the old pods are kept until the verdict and longer."""
        found = documents(export(make_wish(BLUE_GREEN, interval="90s", deadline="20m", warm="7m"), "argo"))
        strategy = one(found, "Rollout")["strategy"]["blueGreen"]
        metrics = one(found, "AnalysisTemplate")["metrics"]

        assert strategy["autoPromotionEnabled"] is True
        assert strategy["scaleDownDelaySeconds"] == 90 + 1200 + 420
        assert strategy["postPromotionAnalysis"]["args"] == [{"name": "at-least", "value": "20"}]
        assert metrics[0]["initialDelay"] == "90s"
        assert [m["consecutiveSuccessLimit"] for m in metrics] == [1, 6, 6]

    def test_rolling(self) -> None:
        """By the replicas' own weights, one more at a time, without a mesh."""
        found = manifests("argo-rolling")
        strategy = one(found, "Rollout")["strategy"]["canary"]

        assert [step["setWeight"] for step in strategy["steps"] if "setWeight" in step] == [33, 67, 100]
        assert (strategy["maxSurge"], strategy["maxUnavailable"]) == (1, 0)
        assert "trafficRouting" not in strategy
        assert "VirtualService" not in {m["kind"] for m in found}

    @pytest.mark.parametrize("name", ["argo-at-once", "argo-canary-at-once"])
    def test_at_once(self, name: str) -> None:
        """Nothing is judged."""
        found = manifests(name)

        assert "AnalysisTemplate" not in {m["kind"] for m in found}
        assert one(found, "Rollout")["strategy"]["blueGreen"]["autoPromotionEnabled"] is True


class TestFlagger:
    """Weights and thresholds."""

    def test_the_steps(self) -> None:
        """The same weights; the interval; how many failed checks it bears."""
        canary = one(manifests("flagger-canary"), "Canary")

        assert canary["analysis"]["stepWeights"] == [5, 25, 50]
        assert (canary["analysis"]["interval"], canary["analysis"]["threshold"]) == ("60s", 5)
        ranges = {m["name"]: m["thresholdRange"] for m in canary["analysis"]["metrics"]}
        assert ranges == {"requests": {"min": 100}, "error-rate": {"max": 0.02}, "latency-excess-ms": {"max": 0.0}}
        assert canary["targetRef"]["name"] == one_name(manifests("flagger-canary"), "Deployment")

    def test_a_short_deadline(self) -> None:
        """Fewer checks may fail than five when the deadline is nearer."""
        found = documents(export(make_wish(interval="60s", deadline="2m"), "flagger"))

        assert one(found, "Canary")["analysis"]["threshold"] == 2

    def test_shorter_than_it_can(self) -> None:
        """The interval is Flagger's least, and that is said."""
        plan = export(CASES["flagger-canary-short"][1], "flagger")

        assert one(documents(plan), "Canary")["analysis"]["interval"] == "10s"
        assert any("interval of 1 s is longer there" in note for note in plan.notes)
        assert any("only watched is left out: latency" in note for note in plan.notes)
        assert any("optional is required there: error-rate" in note for note in plan.notes)

    def test_blue_green(self) -> None:
        """On copies, before the switch, and that is said."""
        plan = export(make_wish(BLUE_GREEN, mirror=35), "flagger")
        analysis = one(documents(plan), "Canary")["analysis"]

        assert (analysis["mirror"], analysis["mirrorWeight"], analysis["iterations"]) == (True, 35, 1)
        assert any("before the switch" in note for note in plan.notes)

    def test_at_once(self) -> None:
        """The analysis is skipped."""
        assert one(manifests("flagger-at-once"), "Canary")["skipAnalysis"] is True


class TestKServe:
    """A file a step."""

    def test_the_steps(self) -> None:
        """The last one has no percentage; each says what has to hold before the next."""
        plan = export(CASES["kserve-canary"][1], "kserve")
        predictors = [m["spec"]["predictor"] for m in documents(plan) if m["kind"] == "InferenceService"]

        assert [p.get("canaryTrafficPercent") for p in predictors] == [5, 25, 50, None]
        assert [file.name[-7:] for file in plan.files] == ["01.yaml", "02.yaml", "03.yaml", "04.yaml"]
        asked = [re.findall(r"^# -   sum\(.* >= (\d+)$", file.text, re.M) for file in plan.files]
        assert asked == [["100"], ["200"], ["300"], []]
        assert len({json.dumps({**p, "canaryTrafficPercent": 0}, sort_keys=True) for p in predictors}) == 1

    def test_its_own_runtime(self) -> None:
        """A graph by the open inference protocol; nothing of ours is there to be judged, and that is said."""
        plan = export(CASES["kserve-onnx"][1], "kserve")
        model = documents(plan)[0]["spec"]["predictor"]["model"]

        assert model["modelFormat"]["name"] == "onnx"
        assert (model["protocolVersion"], model["storageUri"]) == ("v2", "s3://models/digits/7")
        assert any("exports none of our counters" in note for note in plan.notes)

    def test_blue_green(self) -> None:
        """Nothing, then everything."""
        assert [m["spec"]["predictor"].get("canaryTrafficPercent", 100)
                for m in manifests("kserve-blue-green") if m["kind"] == "InferenceService"] == [0, 100]  # fmt: skip


def one_name(found: list[dict[str, Any]], kind: str) -> str:
    (only,) = [m["metadata"]["name"] for m in found if m["kind"] == kind]
    return only


class TestQueries:
    """Over what replicas really export."""

    def test_names_and_labels(self) -> None:
        """Each metric and each label of each query is in a replica's text."""
        counters = Counters(model="digits", version="7", environment="production")
        counters.latency_ms.add(1.0)
        for reason in FAILURES:
            counters.refuse(reason)
        exported = {
            (name, frozenset(re.findall(r'(\w+)="', labels)))
            for name, labels in re.findall(r"^(\w+)\{(.*)\} ", counters.text(0, None).decode(), re.M)
        }
        wish = make_wish()
        used = re.findall(r"(mlcycle_\w+)\{([^}]*)\}", " ".join([requests(wish), *(m.query for m in judged(wish))]))

        assert len({name for name, _ in used}) == 3
        for name, labels in used:
            wanted = set(re.findall(r"(\w+)(?:=~|!=|=)", labels))
            assert any(name == known and wanted <= has for known, has in exported), (name, labels)

    def test_reasons_of_failures(self) -> None:
        """They are what the replica calls them, each with a status of 500 or more."""
        import mlcycle_nb.serving.batching as batching

        source = Path(batching.__file__).read_text()
        assert set(re.findall(r'Problem\(5\d\d, "(\w+)"', source)) == set(FAILURES)

    def test_which_versions(self) -> None:
        """The stable one here, or every other one."""
        assert 'version="6"' in judged(make_wish())[0].query
        assert 'version!="7"' in judged(make_wish(base=None))[0].query
        assert 'version="6"' not in requests(make_wish())

    def test_brackets(self) -> None:
        """Nothing that a template language of the projects would read."""
        for measured in judged(make_wish()):
            assert measured.query.count("(") == measured.query.count(")")
            assert "{{" not in measured.query
            assert "}}" not in measured.query


BAD = [
    (lambda: export(make_wish(steps="12.5,50,100"), "argo"), "whole percentages only.*'12.5'"),
    (lambda: export(make_wish(ROLLING), "flagger"), "no deployment replica by replica"),
    (lambda: export(make_wish(ROLLING), "kserve"), "no deployment replica by replica"),
    (lambda: export(make_wish(BLUE_GREEN, mirror=0), "flagger"), "on copies of requests.*--mirror"),
    (lambda: export(make_wish(package_format="python", image=""), "kserve"), "format python.*--image"),
    (lambda: check_target("argoo"), "did you mean 'argo'"),
    (lambda: check_namespace("Team_A"), "--namespace"),
    (lambda: check_namespace("a" * 64), "--namespace"),
    (lambda: check_image("digits:v7:v8"), "is not a container image"),
    (lambda: check_image("digits v7"), "is not a container image"),
    (lambda: check_image("digits\nevil: true"), "is not a container image"),
    (lambda: check_prometheus("prometheus:9090"), "is not the address of a Prometheus"),
    (lambda: check_prometheus("http://prometheus:99999"), "is not the address of a Prometheus"),
    (lambda: check_prometheus("http://p/{{x}}"), "is not the address of a Prometheus"),
    (lambda: check_prometheus("http://me:secret@prometheus:9090"), "password would lie in the files"),
    (lambda: check_prometheus("http://me:secret@p:99999"), "password would lie in the files"),
    (lambda: check_storage("s3://key:secret@"), "pvc://models/digits/7"),
    (lambda: export(make_wish(SHADOW), "argo"), "no cluster here has a deployment that serves nothing"),
    (lambda: export(make_wish(SHADOW), "flagger"), "no cluster here has a deployment that serves nothing"),
    (lambda: export(make_wish(SHADOW), "kserve"), "no cluster here has a deployment that serves nothing"),
    (lambda: check_storage("models/digits"), "pvc://models/digits/7"),
    (lambda: check_storage("ftp://models/digits"), "known schemes"),
]


@pytest.mark.parametrize(("call", "words"), BAD)
def test_refused_in_one_line(call: Any, words: str) -> None:
    """What cannot be meant, or what a target does not have; a password is not repeated."""
    with pytest.raises(MLCycleError, match=words) as refused:
        call()

    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value).replace("use a secret", "")


@given(
    st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True),
    st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True),
)
def test_names_are_valid_and_differ(one: str, other: str) -> None:
    """Every name of a model and an environment has a name of its own, with room for suffixes."""
    first = object_name(one, "production")

    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", first)
    assert len(first) <= 40
    assert one == other or first != object_name(other, "production")
    assert object_name("digits", "production") == "digits-production"


@pytest.mark.parametrize(("one", "other"), [("a_b", "a-b"), ("a" * 50 + "b", "a" * 50 + "c"), ("1a", "m-1a")])
def test_names_that_would_be_one(one: str, other: str) -> None:
    """A digest keeps them apart where cleaning or cutting would not."""
    assert object_name(one, "production") != object_name(other, "production")


@pytest.mark.parametrize("name", [name for name, (target, _) in CASES.items() if target == "argo"])
def test_no_step_of_argo_could_be_measured_for_ever(name: str) -> None:
    """Argo refuses a step's metric without a count, and one that ends before its limits are reached."""
    found = manifests(name)
    steps = [m["spec"] for m in found if m["kind"] == "AnalysisTemplate" and m["metadata"]["name"].endswith("-step")]
    for metric in (metric for spec in steps for metric in spec["metrics"]):
        assert metric["count"] >= metric.get("failureLimit", 0) + metric.get("consecutiveSuccessLimit", 0)
        assert metric["count"] >= metric.get("inconclusiveLimit", 0)


def test_the_documented_image_belongs_to_whom_it_runs_as() -> None:
    """A package is read by its owner only."""
    docs = Path(__file__).parents[3] / "docs" / "export.md"
    pod = one(manifests("argo-canary"), "Rollout")["template"]["spec"]
    (user,) = {container["securityContext"]["runAsUser"] for container in pod["containers"]}

    assert f"COPY --chown={user}:{user} sha256-... /package" in docs.read_text()


class TestText:
    """The files themselves."""

    @pytest.mark.parametrize(
        "text", ["1e5", "n", "y", "on", "12:30", "0o17", "1_000", "null", "0x1f", "~", "", "a: b", "5"]
    )
    def test_a_text_stays_one(self, text: str) -> None:
        """For readers of YAML 1.1 and 1.2 alike: it is quoted."""
        written = to_yaml({"key": text})

        assert yaml.safe_load(written) == {"key": text}
        assert "'" in written

    @pytest.mark.parametrize("name", CASES)
    def test_notes_are_comments(self, name: str) -> None:
        """At the top of each file, one line each, and nowhere else."""
        target, wish = CASES[name]
        plan = export(wish, target)

        for file in plan.files:
            lines = file.text.splitlines()
            top = lines[: lines.index("---")]
            assert top[0].startswith(SIGN)
            assert all(line.startswith("#") for line in top)
            assert [f"# - {note}" for note in plan.notes] == top[1 : 1 + len(plan.notes)]
        assert not [note for note in plan.notes if "\n" in note]

    def test_what_is_not_carried(self) -> None:
        """Our sequential test, and the metrics that no counter has; an optional one is told as that."""
        notes = "\n".join(export(make_wish(watch="accuracy"), "argo").notes)

        assert "sequential test" in notes
        assert "disagreement (required here) is not judged" in notes
        assert "prediction-shift (optional here) is not judged" in notes
        assert "accuracy" not in notes

    def test_an_image_nobody_named(self) -> None:
        """It cannot be fetched from anywhere, and that is the first thing said about it."""
        plan = export(make_wish(image=""), "argo")

        assert "image: registry.invalid/digits-production:v7" in plan.text.replace("'", "")
        assert any(note.startswith("no --image was given") for note in plan.notes)


class TestWriting:
    """Into a folder."""

    def test_again(self, tmp_path: Path) -> None:
        """Our own files are replaced; the plan says where it is."""
        folder = tmp_path / "new" / "folder"
        plan = export(make_wish(), "argo").write(folder)
        again = export(make_wish(replicas=4), "argo").write(str(folder))

        assert plan.folder == folder
        assert [path.name for path in folder.iterdir()] == [plan.files[0].name]
        assert (folder / plan.files[0].name).read_text() == again.text
        assert str(folder) in repr(again)

    def test_of_somebody_else(self, tmp_path: Path) -> None:
        """Not replaced; and no other file is written either."""
        plan = export(CASES["kserve-canary"][1], "kserve")
        foreign = tmp_path / plan.files[2].name
        foreign.write_text("mine: true\n")

        with pytest.raises(InvalidInput, match="not overwritten"):
            plan.write(tmp_path)
        assert foreign.read_text() == "mine: true\n"
        assert list(tmp_path.iterdir()) == [foreign]

    def test_a_link(self, tmp_path: Path) -> None:
        """Where it leads is not written to."""
        plan = export(make_wish(AT_ONCE), "argo")
        (tmp_path / plan.files[0].name).symlink_to(tmp_path / "elsewhere")

        with pytest.raises(InvalidInput, match="no plain file"):
            plan.write(tmp_path)

    def test_no_folder(self, tmp_path: Path) -> None:
        """One line."""
        (tmp_path / "file").write_text("")

        with pytest.raises(InvalidInput, match=r"cannot be written.*--to"):
            export(make_wish(), "argo").write(tmp_path / "file")

    def test_faces(self) -> None:
        """Text, HTML and JSON say the same; markup in them is inert."""
        plan = export(make_wish(), "argo")

        assert "Rollout" in repr(plan)
        assert "&lt;" not in repr(plan)
        assert "result[0] &lt;= 0.02" in plan._repr_html_()
        assert json.loads(json.dumps(plan.to_dict()))["notes"] == list(plan.notes)


def test_refusals_are_of_their_kind() -> None:
    """What a target does not have is refused; what is mistyped is invalid."""
    with pytest.raises(Refused):
        export(make_wish(ROLLING), "flagger")
