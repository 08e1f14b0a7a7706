"""Facts that development itself has recorded: version, owners, data, run, reproducibility, deployments."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from mlcycle_nb.development.card.facts import Fact, number_text
from mlcycle_nb.development.history import ModelHistory, shares
from mlcycle_nb.development.records import PARENT_TAG, ModelVersion, Run
from mlcycle_nb.errors import MLCycleError, NotFound

if TYPE_CHECKING:
    from mlcycle_nb.development.provenance import Provenance
    from mlcycle_nb.packages import Package, PackageStore

REGISTRY, TRAIL = "registry", "audit trail"


def version_facts(version: ModelVersion, history: ModelHistory) -> Iterator[Fact]:
    """Yield who registered what, and what it was called at the history's time."""

    def fact(key: str, name: str, value: str | int | None, source: str = REGISTRY) -> Fact:
        return Fact(section="Version", key=f"version/{key}", name=name, value=value, source=source)

    made = [e for e in history.entries if e.version == version.version
            and e.event in {"model.registered", "model.adopted"}]  # fmt: skip
    called = sorted(alias for alias, number in history.aliases.items() if number == version.version)
    yield fact("reference", "version", version.reference)
    yield fact("registered-at", "registered", f"{version.created_at:%Y-%m-%d %H:%M:%S} UTC")
    yield fact("registered-by", "registered by", made[0].actor if made else None, TRAIL)
    yield fact("package", "package", version.package_digest)
    yield fact("aliases", "aliases", ", ".join(called), TRAIL)
    yield fact("run", "run", version.run_id or "none")
    if PARENT_TAG in version.tags:
        yield fact("parent", "made from", version.tags[PARENT_TAG])


def package_facts(version: ModelVersion, store: PackageStore) -> Iterator[Fact]:
    """Yield what the package's manifest says; only that it is gone when it is."""

    def fact(section: str, key: str, name: str, value: str | float | None, unit: str = "") -> Fact:
        source = f"manifest of package {version.package_digest[:19]}"
        return Fact(section=section, key=f"package/{key}", name=name, value=value, source=source, unit=unit)

    try:
        package: Package = store.open(version.package_digest)
    except NotFound:
        yield fact("Known limits", "gone", "package", "not in the package store")
        return
    manifest = package.manifest
    yield fact("Version", "task", "task", str(manifest.task))
    yield fact("Version", "format", "format", manifest.format)
    yield fact("Version", "bytes", "size", sum(entry.size_bytes for entry in manifest.files.values()), "bytes")
    yield fact("Version", "features", "features", len(manifest.feature_names))
    yield fact("Version", "classes", "classes", len(manifest.class_names))
    yield fact("Known limits", "atol", "absolute tolerance against the original model", manifest.golden.atol)
    yield fact("Known limits", "rtol", "relative tolerance against the original model", manifest.golden.rtol)
    for name, entry in sorted(manifest.files.items()):
        if name.startswith("reference"):
            yield fact("Training data", f"file/{name}", f"reference window ({name})", f"sha256:{entry.sha256}")


def owner_facts(history: ModelHistory) -> Iterator[Fact]:
    """Yield who owned and reviewed the model at the history's time."""
    for key, people in (("owners", history.owners), ("reviewers", history.reviewers)):
        yield Fact(section="Owners", key=f"people/{key}", name=key, value=", ".join(people) or "nobody", source=TRAIL)


def run_facts(run: Run, origin: Provenance | MLCycleError) -> Iterator[Fact]:
    """Yield what a run used and measured, and whether it can be made again."""

    def fact(section: str, key: str, name: str, value: str | float | None, unit: str = "") -> Fact:
        return Fact(section=section, key=f"run/{key}", name=name, value=value, source=f"run {run.id[:8]}", unit=unit)

    yield fact("Training run", "experiment", "experiment", run.experiment)
    yield fact("Training run", "status", "status", run.status)
    yield fact("Training run", "started", "started", f"{run.started_at:%Y-%m-%d %H:%M:%S} UTC")
    yield fact("Training run", "seconds", "duration", run.duration_seconds, "s")
    for name, text in sorted(run.parameters.items()):
        yield fact("Training run", f"params.{name}", name, text)
    for name, value in sorted(run.metrics.items()):
        yield fact("Training run", f"metrics.{name}", name, value)
    if isinstance(origin, MLCycleError):
        yield fact("Reproducibility", "origin", "origin of the run", f"cannot be read: {origin.problem}")
        return
    for name, digest in sorted(origin.data.items()):
        yield fact("Training data", f"data.{name}", name, digest)
    if not origin.data:
        yield fact("Known limits", "data", "training data", "no data was named when the run started")
    again = run.reproducible
    reasons = "; ".join(again.reasons)
    known = "mlcycle.reproducible" in run.tags
    yield fact(
        "Reproducibility", "reproducible", "reproducible", None if not known else "yes" if again else f"no: {reasons}"
    )
    yield fact("Reproducibility", "commit", "commit", origin.git_commit or "none")
    yield fact("Reproducibility", "dirty", "uncommitted changes", "yes" if origin.dirty else "no")
    yield fact("Reproducibility", "cells", "cells run before", len(origin.cells_before))
    yield fact("Reproducibility", "cell", "cell", origin.cell_digest or "none")
    yield fact("Reproducibility", "lock", "installed packages", origin.lock_digest)
    yield fact("Reproducibility", "packages", "number of packages", len(origin.packages))
    yield fact("Reproducibility", "python", "Python", origin.python)
    yield fact("Reproducibility", "platform", "platform", origin.platform)
    for name, seed in sorted(origin.seeds.items()):
        yield fact("Reproducibility", f"seed.{name}", f"seed of {name}", str(seed))


def no_run_facts(why: str) -> Iterator[Fact]:
    """Yield that nothing is known of how a version was trained."""
    yield Fact(section="Known limits", key="run/none", name="training run", value=why, source=REGISTRY)


def deployment_facts(version: ModelVersion, history: ModelHistory, at: datetime) -> Iterator[Fact]:
    """Yield where the version was deployed when, with which share of the requests, up to the history's time."""
    served_before: dict[str, float] = {}
    count = 0
    for entry in history.entries:
        if not entry.environment:
            continue
        share = entry.weights.get(version.version, 0.0)
        routed = entry.event == "service.routed"
        moved = routed and share != served_before.get(entry.environment, 0.0)
        promoted = entry.event == "service.promoted" and entry.version == version.version
        ended = entry.event == "service.ended" and served_before.get(entry.environment, 0.0) > 0
        if routed or ended:
            served_before[entry.environment] = 0.0 if ended else share
        if not (moved or promoted or ended):
            continue
        count += 1
        told = (
            "became stable" if promoted else "service ended" if ended else f"{number_text(100 * share)} % of requests"
        )
        moment = f"{entry.time:%Y-%m-%d %H:%M:%S} UTC"
        yield Fact(
            section="Deployment",
            key=f"deployment/{count}",
            name=f"{entry.environment}, {moment}",
            value=told,
            source=f"{TRAIL}: {entry.event} by {entry.actor}",
        )
    for where, served in sorted(history.deployed.items()):
        yield Fact(
            section="Deployment",
            key=f"served/{where}",
            name=f"{where} at {at:%Y-%m-%d %H:%M:%S} UTC",
            value=f"stable is {served.stable or 'none'}; {shares(served.weights)}",
            source=TRAIL,
        )
    if not count:
        yield Fact(section="Deployment", key="deployment/none", name="deployments", value="none", source=TRAIL)
