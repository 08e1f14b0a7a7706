"""The plan for Argo Rollouts: Rollout, AnalysisTemplates, Services, and an Istio VirtualService for the weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlcycle_nb.deployment.export import pods
from mlcycle_nb.deployment.export.manifest import Manifest, ManifestFile, manifest_file, metadata
from mlcycle_nb.deployment.export.names import whole_seconds
from mlcycle_nb.deployment.export.notes import analysis_notes, copies_note, first_note, image_notes, place_notes
from mlcycle_nb.deployment.export.queries import Judged, judged, requests
from mlcycle_nb.deployment.export.wish import ExportWish
from mlcycle_nb.deployment.records import DeploymentStrategy

MEASURE_SECONDS = 15
"""How often a query is asked: the usual time between two scrapes."""


def export(wish: ExportWish) -> tuple[tuple[ManifestFile, ...], tuple[str, ...]]:
    """Return the files and the notes."""
    notes = _notes(wish)
    manifests: list[Manifest] = [pods.configuration(wish)]
    if _weighted(wish):
        manifests += [pods.service(wish), pods.service(wish, "-stable"), pods.service(wish, "-canary")]
        manifests.append(_virtual_service(wish))
    elif wish.strategy is DeploymentStrategy.ROLLING:
        manifests.append(pods.service(wish))
    else:
        manifests += [pods.service(wish), pods.service(wish, "-preview")]
    if wish.judges and wish.strategy is not DeploymentStrategy.ROLLING:
        manifests.append(_step_template(wish))
    if wish.judges and wish.strategy is not DeploymentStrategy.BLUE_GREEN:
        manifests.append(_watch_template(wish))
    manifests.append(_rollout(wish))
    title = f"{wish.strategy} of {wish.reference} in {wish.environment}, for Argo Rollouts (v1.8 and later)"
    return (manifest_file(f"{wish.name}-v{wish.version}-argo.yaml", title, notes, manifests),), notes


def _notes(wish: ExportWish) -> tuple[str, ...]:
    notes = [first_note(wish), *image_notes(wish)]
    if not wish.judges:
        return (*notes, "nothing is judged, as with all-at-once here", place_notes(wish)[1])
    if wish.strategy is DeploymentStrategy.CANARY:
        notes.append(
            "the minimum of requests is counted since the pods began: step N asks for N times the minimum in all; at "
            "the deadline of a step the rollout goes back, or is paused as inconclusive when only a metric is undecided"
        )
        notes.append(f"weights hold for callers inside the Istio mesh, at http://{wish.name}")
    if wish.strategy is DeploymentStrategy.ROLLING:
        notes.append("weights are those of the replicas; no mesh is asked for")
    if wish.strategy is DeploymentStrategy.BLUE_GREEN:
        notes.append(
            "the new version is compared with the old one's last requests before the switch, and held for "
            f"{wish.interval} s by measurements; the old pods stay until it is judged, then for --warm"
        )
    notes += copies_note(wish)
    return (*notes, *analysis_notes(wish), *place_notes(wish))


def _rollout(wish: ExportWish) -> Manifest:
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Rollout",
        "metadata": metadata(wish.name, wish.namespace, **pods.labels(wish)),
        "spec": {
            "replicas": wish.replicas,
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": whole_seconds(wish.policy.start_seconds),
            "progressDeadlineAbort": True,
            "selector": {"matchLabels": pods.selector(wish)},
            "template": pods.pod_template(wish),
            "strategy": _strategy(wish),
        },
    }


def _strategy(wish: ExportWish) -> dict[str, Any]:
    warm = whole_seconds(wish.policy.warm_seconds)
    if wish.strategy is DeploymentStrategy.ROLLING:
        return {"canary": {"maxSurge": 1, "maxUnavailable": 0, "analysis": _watched(wish), "steps": _steps(wish)}}
    if _weighted(wish):
        return {
            "canary": {
                "stableService": f"{wish.name}-stable",
                "canaryService": f"{wish.name}-canary",
                "trafficRouting": {"istio": {"virtualService": {"name": wish.name, "routes": ["split"]}}},
                "scaleDownDelaySeconds": warm,
                "analysis": _watched(wish),
                "steps": [{"setCanaryScale": {"replicas": wish.replicas}}, *_steps(wish)],
            }
        }
    plain = {"activeService": wish.name, "previewService": f"{wish.name}-preview", "autoPromotionEnabled": True}
    if wish.strategy is not DeploymentStrategy.BLUE_GREEN:
        return {"blueGreen": {**plain, "scaleDownDelaySeconds": warm}}
    # The old pods are kept for the whole analysis: Argo would end it when their time is over.
    kept = wish.interval + wish.deadline + warm
    return {"blueGreen": {**plain, "scaleDownDelaySeconds": kept, "postPromotionAnalysis": _judged_step(wish, 1)}}


def _weighted(wish: ExportWish) -> bool:
    return wish.strategy is DeploymentStrategy.CANARY and bool(wish.weights)


def _steps(wish: ExportWish) -> list[dict[str, Any]]:
    pause = {"pause": {"duration": f"{wish.interval}s"}}
    if wish.strategy is DeploymentStrategy.ROLLING:
        weights = (round(step / 100) for step in wish.policy.steps)
        return [part for weight in weights for part in ({"setWeight": weight}, pause)]
    steps: list[dict[str, Any]] = []
    for number, weight in enumerate(wish.weights, 1):
        steps += [{"setWeight": weight}, pause, {"analysis": _judged_step(wish, number)}]
    return steps


def _judged_step(wish: ExportWish, number: int) -> dict[str, Any]:
    at_least = {"name": "at-least", "value": str(number * wish.policy.min_requests)}
    return {"templates": [{"templateName": _step_name(wish)}], "args": [at_least]}


def _watched(wish: ExportWish) -> dict[str, Any]:
    first = 2 if wish.strategy is DeploymentStrategy.CANARY else 1  # from the first weight on
    return {"templates": [{"templateName": _watch_name(wish)}], "startingStep": first}


def _step_name(wish: ExportWish) -> str:
    return f"{wish.name}-v{wish.version}-step"


def _watch_name(wish: ExportWish) -> str:
    return f"{wish.name}-v{wish.version}-watch"


def _step_template(wish: ExportWish) -> Manifest:
    """Return what has to be shown before the next weight: enough requests, and required metrics within bounds.

    After a blue-green switch the same is asked for as long as the interval lasts, and what is optional with it.
    """
    tries = max(1, -(-(wish.deadline - wish.interval) // MEASURE_SECONDS))
    switched = wish.strategy is DeploymentStrategy.BLUE_GREEN
    times = max(1, wish.interval // MEASURE_SECONDS) if switched else 1
    enough: dict[str, Any] = {
        "name": "requests",
        "interval": f"{MEASURE_SECONDS}s",
        "count": tries + 1,  # Argo refuses a measurement of a step that could go on for ever
        **({"initialDelay": f"{wish.interval}s"} if switched else {}),
        "consecutiveSuccessLimit": 1,
        "failureLimit": tries,
        "successCondition": "len(result) > 0 && result[0] >= {{args.at-least}}",
        "provider": _prometheus(wish, requests(wish)),
    }
    required = [_measured(wish, one) for one in judged(wish) if wish.judged(one.option) == "required"]
    for metric, one in zip(required, (j for j in judged(wish) if wish.judged(j.option) == "required"), strict=True):
        # Neither condition holds while there is no value: undecided, and asked again until the deadline.
        metric["successCondition"] = f"len(result) > 0 && result[0] <= {one.most:g}"
        metric |= {"count": (tries + 1) * times, "consecutiveSuccessLimit": times, "inconclusiveLimit": tries}
    others = [one for one in judged(wish) if switched and wish.judged(one.option) != "required"]
    spec = {
        "args": [{"name": "at-least"}],
        "metrics": [enough, *required, *(_measured(wish, o, times) for o in others)],
    }
    return _template(wish, _step_name(wish), spec | _dry_run(wish, others))


def _watch_template(wish: ExportWish) -> Manifest:
    """Return what sends the version back at any time."""
    metrics = [_measured(wish, one) for one in judged(wish)]
    return _template(wish, _watch_name(wish), {"metrics": metrics, **_dry_run(wish, judged(wish))})


def _measured(wish: ExportWish, one: Judged, count: int = 0) -> dict[str, Any]:
    return {
        "name": one.name,
        "interval": f"{MEASURE_SECONDS}s",
        **({"count": count} if count else {}),
        "failureLimit": 0,
        "failureCondition": f"len(result) > 0 && result[0] > {one.most:g}",
        "provider": _prometheus(wish, one.query),
    }


def _dry_run(wish: ExportWish, metrics: Iterable[Judged]) -> dict[str, Any]:
    shown = [{"metricName": one.name} for one in metrics if wish.judged(one.option) == "watched"]
    return {"dryRun": shown} if shown else {}


def _template(wish: ExportWish, name: str, spec: dict[str, Any]) -> Manifest:
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": metadata(name, wish.namespace, **pods.labels(wish)),
        "spec": spec,
    }


def _prometheus(wish: ExportWish, query: str) -> dict[str, Any]:
    return {"prometheus": {"address": wish.prometheus, "query": query}}


def _virtual_service(wish: ExportWish) -> Manifest:
    def to(suffix: str, weight: int) -> dict[str, Any]:
        return {"destination": {"host": f"{wish.name}{suffix}"}, "weight": weight}

    return {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "VirtualService",
        "metadata": metadata(wish.name, wish.namespace, **pods.labels(wish)),
        "spec": {
            "hosts": [wish.name],
            "http": [{"name": "split", "route": [to("-stable", 100), to("-canary", 0)]}],
        },
    }
