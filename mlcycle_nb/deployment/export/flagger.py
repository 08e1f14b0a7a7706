"""The plan for Flagger: a Deployment, a Canary with its steps, and MetricTemplates; routed by Istio."""

from __future__ import annotations

from typing import Any

from mlcycle_nb.deployment.export import pods
from mlcycle_nb.deployment.export.manifest import Manifest, ManifestFile, manifest_file, metadata
from mlcycle_nb.deployment.export.names import whole_seconds
from mlcycle_nb.deployment.export.notes import analysis_notes, copies_note, first_note, image_notes, place_notes
from mlcycle_nb.deployment.export.queries import judged, requests
from mlcycle_nb.deployment.export.wish import ExportWish
from mlcycle_nb.deployment.records import DeploymentStrategy
from mlcycle_nb.errors import Refused

FAILED_CHECKS = 5
"""Checks that may fail before Flagger goes back. Ours goes back at the first failure and waits a whole deadline for
requests; Flagger counts both alike, so this is kept short: a bad version must not stay for an hour."""
LEAST_SECONDS = 10
"""Flagger's own lower bound of an interval."""


def export(wish: ExportWish) -> tuple[tuple[ManifestFile, ...], tuple[str, ...]]:
    """Return the files and the notes.

    Raises
    ------
    Refused
        For a rolling deployment, and for a blue-green one without copies of requests.
    """
    if wish.strategy is DeploymentStrategy.ROLLING:
        raise Refused(
            "Flagger has no deployment replica by replica",
            where="--export flagger",
            remedy="--canary, or --export argo",
        )
    mirrored = wish.policy.mirror > 0
    if wish.strategy is DeploymentStrategy.BLUE_GREEN and not mirrored:
        raise Refused(
            "Flagger judges a blue-green deployment before the switch, on copies of requests",
            where="--export flagger",
            remedy="give --mirror a percentage over 0, or use --export argo",
        )
    notes = _notes(wish)
    manifests: list[Manifest] = [pods.configuration(wish), _deployment(wish)]
    if wish.judges:
        manifests += _templates(wish)
    manifests.append(_canary(wish))
    title = f"{wish.strategy} of {wish.reference} in {wish.environment}, for Flagger with Istio"
    return (manifest_file(f"{wish.name}-v{wish.version}-flagger.yaml", title, notes, manifests),), notes


def _interval(wish: ExportWish) -> int:
    return max(wish.interval, LEAST_SECONDS)


def _threshold(wish: ExportWish) -> int:
    return max(1, min(FAILED_CHECKS, wish.deadline // _interval(wish)))


def _notes(wish: ExportWish) -> tuple[str, ...]:
    notes = [first_note(wish), *image_notes(wish), f"callers reach it inside the Istio mesh, at http://{wish.name}"]
    if not wish.judges:
        return (*notes, "nothing is judged, as with all-at-once here", place_notes(wish)[1])
    if wish.interval < LEAST_SECONDS:
        notes.append(
            f"Flagger checks every {LEAST_SECONDS} s at most: the interval of {wish.interval} s is longer there"
        )
    notes.append(
        f"a step without {wish.policy.min_requests} requests, and one whose metric fails, are the same to Flagger: "
        f"after {_threshold(wish)} such checks, {_threshold(wish) * _interval(wish)} s, it goes back; ours goes back "
        f"at the first failure, and waits {wish.deadline} s for requests"
    )
    notes.append("the minimum of requests is counted since the pods began, once for all steps")
    if wish.strategy is DeploymentStrategy.BLUE_GREEN:
        notes.append("the new version is judged on copies of requests before the switch; ours is judged after it")
    else:
        notes += copies_note(wish)
    watched = [one.name for one in judged(wish) if wish.judged(one.option) == "watched"]
    if watched:
        notes.append(f"what is only watched is left out: {', '.join(watched)}")
    optional = [one.name for one in judged(wish) if wish.judged(one.option) == "optional"]
    if optional:
        notes.append(f"what is optional is required there: {', '.join(optional)}")
    notes.append("--warm is not carried over: the old version's pods are replaced at the end")
    return (*notes, *analysis_notes(wish), *place_notes(wish))


def _deployment(wish: ExportWish) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(wish.name, wish.namespace, **pods.labels(wish)),
        "spec": {
            "replicas": wish.replicas,
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": whole_seconds(wish.policy.start_seconds),
            "selector": {"matchLabels": pods.selector(wish)},
            "template": pods.pod_template(wish),
        },
    }


def _canary(wish: ExportWish) -> Manifest:
    return {
        "apiVersion": "flagger.app/v1beta1",
        "kind": "Canary",
        "metadata": metadata(wish.name, wish.namespace, **pods.labels(wish)),
        "spec": {
            "provider": "istio",
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": wish.name},
            "progressDeadlineSeconds": whole_seconds(wish.policy.start_seconds),
            "service": {"port": 80, "targetPort": "http", "portName": "http"},
            **({} if wish.judges else {"skipAnalysis": True}),
            "analysis": _analysis(wish),
        },
    }


def _analysis(wish: ExportWish) -> dict[str, Any]:
    checked = {"interval": f"{_interval(wish)}s", "threshold": _threshold(wish)}
    if not wish.judges:
        return {**checked, "iterations": 1}
    if wish.strategy is DeploymentStrategy.BLUE_GREEN:
        copies = {"iterations": 1, "mirror": True, "mirrorWeight": max(1, wish.policy.mirror // 100)}
        return {**checked, **copies, "metrics": _metrics(wish)}
    return {**checked, "stepWeights": list(wish.weights), "metrics": _metrics(wish)}


def _metrics(wish: ExportWish) -> list[dict[str, Any]]:
    wanted: list[tuple[str, dict[str, float]]] = [("requests", {"min": wish.policy.min_requests})]
    for one in judged(wish):
        if wish.judged(one.option) != "watched":
            wanted.append((one.name, {"max": one.most}))
    return [
        {
            "name": name,
            "templateRef": {"name": _template_name(wish, name)},
            "thresholdRange": within,
            "interval": f"{_interval(wish)}s",
        }
        for name, within in wanted
    ]


def _templates(wish: ExportWish) -> list[Manifest]:
    queries = {"requests": requests(wish)}
    queries |= {one.name: one.query for one in judged(wish) if wish.judged(one.option) != "watched"}
    return [
        {
            "apiVersion": "flagger.app/v1beta1",
            "kind": "MetricTemplate",
            "metadata": metadata(_template_name(wish, name), wish.namespace, **pods.labels(wish)),
            "spec": {"provider": {"type": "prometheus", "address": wish.prometheus}, "query": query},
        }
        for name, query in queries.items()
    ]


def _template_name(wish: ExportWish, metric: str) -> str:
    return f"{wish.name}-v{wish.version}-{metric}"
