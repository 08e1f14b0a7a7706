"""The plan for KServe: one InferenceService a step, because nobody there moves the percentage by itself."""

from __future__ import annotations

from typing import Any

from mlcycle_nb.deployment.export import pods
from mlcycle_nb.deployment.export.manifest import Manifest, ManifestFile, manifest_file, metadata
from mlcycle_nb.deployment.export.notes import first_note, image_notes
from mlcycle_nb.deployment.export.queries import judged, requests
from mlcycle_nb.deployment.export.wish import ExportWish
from mlcycle_nb.deployment.records import DeploymentStrategy
from mlcycle_nb.errors import Refused

CONTAINER = "kserve-container"
"""The name that KServe gives to the container that answers."""


def export(wish: ExportWish) -> tuple[tuple[ManifestFile, ...], tuple[str, ...]]:
    """Return the files, one a step, and the notes.

    Raises
    ------
    Refused
        For a rolling deployment, and for a package that only our replica can serve without an image of it.
    """
    if wish.strategy is DeploymentStrategy.ROLLING:
        raise Refused(
            "KServe has no deployment replica by replica", where="--export kserve", remedy="--canary, or --export argo"
        )
    if wish.package_format != "onnx" and not wish.image:
        raise Refused(
            f"KServe's runtimes do not serve a package of format {wish.package_format}",
            where="--export kserve",
            remedy="--image with our replica, such as registry.example/digits:v7",
        )
    notes = _notes(wish)
    shares = _shares(wish)
    files = []
    for number, share in enumerate(shares, 1):
        title = f"step {number} of {len(shares)}: {share}% to {wish.reference} in {wish.environment}, for KServe"
        manifests = [pods.configuration(wish)] if wish.image and number == 1 else []
        manifests.append(_inference_service(wish, share))
        waits = [] if number == len(shares) else _checks(wish, number)
        name = f"{wish.name}-v{wish.version}-kserve-{number:02d}.yaml"
        files.append(manifest_file(name, title, [*notes, *waits], manifests))
    return tuple(files), notes


def _shares(wish: ExportWish) -> tuple[int, ...]:
    if wish.strategy is DeploymentStrategy.BLUE_GREEN:
        return (0, 100)
    return (*wish.weights, 100) if wish.strategy is DeploymentStrategy.CANARY else (100,)


def _notes(wish: ExportWish) -> tuple[str, ...]:
    notes = [first_note(wish)]
    if wish.image:
        notes += image_notes(wish)
    else:
        notes.append(
            f"KServe's own runtime for ONNX answers by the open inference protocol; {_storage(wish)} has to hold the "
            f"package's graph as {wish.name}/1/model.onnx"
            + ("" if wish.storage else " (no --storage was given: put yours there)")
        )
        notes.append("it exports none of our counters, so nothing can be judged by them; with --image it does")
    if len(_shares(wish)) > 1:
        notes.append(
            "KServe moves no percentage and judges nothing: somebody applies the files in order, each after the checks "
            "of the one before, and the first one with canaryTrafficPercent: 0 to go back"
        )
        notes.append("canaryTrafficPercent needs the Knative deployment mode, which the files ask for")
    if wish.policy.mirror and wish.judges:
        notes.append(
            "requests are not copied to both versions; disagreement, prediction-shift and accuracy are not seen"
        )
    notes.append("callers' keys, addresses of single versions and the prediction log are not carried over")
    return tuple(notes)


def _checks(wish: ExportWish, number: int) -> list[str]:
    """Return what has to hold before the next file is applied."""
    if wish.strategy is DeploymentStrategy.BLUE_GREEN:
        return ["before the next file: the new revision is ready (kubectl wait --for=condition=Ready)"]
    lines = [f"before the next file: wait {wish.interval} s, and at most {wish.deadline} s for the following"]
    if wish.image:
        lines.append(f"  {_one_line(requests(wish))} >= {number * wish.policy.min_requests}")
        lines += [
            f"  {_one_line(one.query)} <= {one.most:g}"
            for one in judged(wish)
            if wish.judged(one.option) != "watched"
        ]  # fmt: skip
    else:
        lines.append(f"  {wish.policy.min_requests} requests of the new revision, by your own counters")
    return lines


def _one_line(query: str) -> str:
    return " ".join(query.split())


def _inference_service(wish: ExportWish, share: int) -> Manifest:
    meta = metadata(wish.name, wish.namespace, **pods.labels(wish))
    meta["annotations"] = {"serving.kserve.io/deploymentMode": "Knative"}
    split = {} if share == 100 else {"canaryTrafficPercent": share}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": meta,
        "spec": {
            "predictor": {
                "minReplicas": wish.replicas,
                **split,
                "labels": {"app.kubernetes.io/version": str(wish.version)},
                **(_our_replica(wish) if wish.image else _runtime(wish)),
            }
        },
    }


def _runtime(wish: ExportWish) -> dict[str, Any]:
    model = {
        "modelFormat": {"name": "onnx", "version": "1"},
        "protocolVersion": "v2",
        "storageUri": _storage(wish),
        "resources": {"requests": {"cpu": str(wish.threads), "memory": "512Mi"}},
    }
    return {"model": model}


def _our_replica(wish: ExportWish) -> dict[str, Any]:
    spec = pods.pod_spec(wish, front=CONTAINER)
    listening = spec["containers"][0]
    # Knative decides itself when a pod is up, takes one port, and has its own rules for how pods end.
    listening["ports"] = [{"name": "http1", "containerPort": pods.PORT, "protocol": "TCP"}]
    listening["readinessProbe"]["httpGet"]["port"] = pods.PORT
    for container in spec["containers"]:
        for key in ("lifecycle", "startupProbe", "livenessProbe"):
            container.pop(key, None)
    for key in ("terminationGracePeriodSeconds", "automountServiceAccountToken"):
        spec.pop(key)
    return {"annotations": dict(pods.SCRAPED), **spec}


def _storage(wish: ExportWish) -> str:
    return wish.storage or f"pvc://models/{wish.name}/v{wish.version}"
