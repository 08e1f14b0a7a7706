"""What a cluster's controller does otherwise than ours, in one line each."""

from __future__ import annotations

from mlcycle_nb.deployment.export.wish import ExportWish
from mlcycle_nb.deployment.records import DeploymentStrategy

_NOT_CARRIED = {
    "disagreement": "copies of requests to both versions are not compared",
    "prediction-shift": "answers are in no counter",
    "accuracy": "labels do not reach Prometheus",
}


def image_notes(wish: ExportWish) -> list[str]:
    """Return what the image has to hold, and that nobody named one."""
    notes = [] if wish.image else [f"no --image was given: {wish.container_image} cannot be fetched, put yours there"]
    notes.append(
        f"the image holds mlcycle-nb and the package {wish.digest[:19]} of {wish.reference} in /package, and runs as "
        "uid 1000"
    )
    return notes


def first_note(wish: ExportWish) -> str:
    """Return what has to run before."""
    before = "" if wish.base is None else f"; {wish.model}/{wish.base}, stable here, has to run there before"
    return f"the first version that the cluster gets as {wish.name} takes all requests unjudged{before}"


def copies_note(wish: ExportWish) -> list[str]:
    """Return that there are no copies of requests, where ours makes some."""
    copied = wish.policy.mirror and wish.judges and wish.strategy is not DeploymentStrategy.ROLLING
    return ["requests are not copied to both versions"] if copied else []


def analysis_notes(wish: ExportWish) -> list[str]:
    """Return how the analysis differs."""
    policy = wish.policy
    notes = [
        f"errors and latency are compared by thresholds on counters once the new version has {policy.min_requests} "
        f"requests; our sequential test, which bounds false alarms at {policy.alpha:g} over the whole rollout, is not "
        "carried over",
        "latency is the 95th percentile inside the replica from buckets that double, not the gateway's own times; a "
        "pod that starts again begins its counts anew, and requests that no pod answered are not counted",
    ]
    for metric, why in _NOT_CARRIED.items():
        mode = wish.judged(metric)
        if metric in wish.metrics and mode != "watched":
            notes.append(f"{metric} ({mode} here) is not judged: {why}")
    if wish.judged("error-rate") != "required" and wish.judged("latency") != "required":
        notes.append("nothing that is required here can be judged there: only the number of requests holds a step")
    return notes


def place_notes(wish: ExportWish) -> list[str]:
    """Return what the cluster has to bring, and what of ours is not there."""
    return [
        f"Prometheus at {wish.prometheus} has to scrape /metrics of the pods (they carry prometheus.io annotations)",
        "callers' keys, addresses of single versions and the prediction log are not carried over",
    ]
