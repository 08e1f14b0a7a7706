"""From what somebody asked for to the manifests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.export import argo, flagger, kserve
from mlcycle_nb.deployment.export.manifest import ExportedPlan, ManifestFile
from mlcycle_nb.deployment.export.names import check_image, check_namespace, check_prometheus, check_storage
from mlcycle_nb.deployment.export.wish import PROMETHEUS, ExportWish
from mlcycle_nb.deployment.policy import make_policy
from mlcycle_nb.deployment.records import WHOLE, DeploymentStrategy, Service, service_id
from mlcycle_nb.errors import InvalidInput, Refused

_EXPORTS: dict[str, Callable[[ExportWish], tuple[tuple[ManifestFile, ...], tuple[str, ...]]]] = {
    "argo": argo.export,
    "flagger": flagger.export,
    "kserve": kserve.export,
}


def prepare(
    context: Context,
    *,
    model: str,
    version: int,
    digest: str,
    environment: str,
    strategy: DeploymentStrategy,
    replicas: int,
    policy: dict[str, Any],
    image: str = "",
    namespace: str = "",
    prometheus: str = "",
    storage: str = "",
    target: str,
) -> ExportWish:
    """Check everything that was asked for; read the package's format and what is stable here."""
    from mlcycle_nb.packages import PackageStore

    if storage and (target != "kserve" or image):
        raise InvalidInput(
            "--storage is where KServe's own runtime reads; it goes with --export kserve, without --image"
        )
    if prometheus and target == "kserve" and not image:
        raise InvalidInput("KServe's own runtime exports no counters of ours, so --prometheus goes with --image")
    wanted = make_policy(strategy, **policy)
    if strategy is DeploymentStrategy.ROLLING:
        wanted = replace(wanted, steps=tuple(WHOLE * done // replicas for done in range(1, replicas + 1)))
    package = PackageStore(context.folder("packages")).open(digest)
    service = context.store.maybe(Service, service_id(environment, model))
    stable = None if service is None or service.stable == version else service.stable
    serving = context.settings.serving
    return ExportWish(
        model=model,
        version=version,
        environment=environment,
        digest=digest,
        package_format=package.format,
        strategy=strategy,
        policy=wanted,
        replicas=replicas,
        base=stable,
        threads=serving.replica_threads,
        body_bytes=serving.body_limit_bytes,
        trusted_keys=() if package.format == "onnx" else _trusted(context),
        image=check_image(image) if image else "",
        namespace=check_namespace(namespace),
        prometheus=check_prometheus(prometheus or PROMETHEUS),
        storage=check_storage(storage) if storage else "",
    )


def export(wish: ExportWish, target: str) -> ExportedPlan:
    """Return the manifests of a wish for a target.

    Raises
    ------
    InvalidInput, Refused
        When the target has no equivalent.
    """
    if wish.strategy is DeploymentStrategy.SHADOW:
        raise Refused(
            "no cluster here has a deployment that serves nothing",
            value=str(wish.strategy),
            where="--export",
            remedy="export a canary; --mirror is what compares here",
        )
    files, notes = _EXPORTS[target](wish)
    return ExportedPlan(
        target=target,
        reference=wish.reference,
        environment=wish.environment,
        strategy=str(wish.strategy),
        files=files,
        notes=notes,
    )


def _trusted(context: Context) -> tuple[str, ...]:
    from mlcycle_nb.packages.signing import public_key_hex
    from mlcycle_nb.store.keys import signing_key

    return (public_key_hex(signing_key(context.workspace_id)),)
