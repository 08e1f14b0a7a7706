"""Wishes that together use every field that is exported; run as a module, it writes their manifests into a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mlcycle_nb.deployment.export.prepare import export
from mlcycle_nb.deployment.export.wish import ExportWish
from mlcycle_nb.deployment.policy import make_policy
from mlcycle_nb.deployment.records import WHOLE, DeploymentStrategy

CANARY, BLUE_GREEN = DeploymentStrategy.CANARY, DeploymentStrategy.BLUE_GREEN
ROLLING, AT_ONCE = DeploymentStrategy.ROLLING, DeploymentStrategy.ALL_AT_ONCE
IMAGE = "registry.example:5000/team/digits:v7"


def make_wish(strategy: DeploymentStrategy = CANARY, **options: Any) -> ExportWish:
    """Return a wish; options of the policy and of the wish may be mixed."""
    of_wish = {name: options.pop(name) for name in list(options) if name in ExportWish.__dataclass_fields__}
    replicas = of_wish.pop("replicas", 2)
    policy = make_policy(strategy, **options)
    if strategy is ROLLING:
        from dataclasses import replace

        policy = replace(policy, steps=tuple(WHOLE * done // replicas for done in range(1, replicas + 1)))
    plain: dict[str, Any] = {
        "model": "digits",
        "version": 7,
        "environment": "production",
        "digest": "sha256:" + "a" * 64,
        "package_format": "onnx",
        "base": 6,
        "image": IMAGE,
    }
    return ExportWish(strategy=strategy, policy=policy, replicas=replicas, **{**plain, **of_wish})


CASES: dict[str, tuple[str, ExportWish]] = {
    "argo-canary": ("argo", make_wish()),
    "argo-canary-all": ("argo", make_wish(namespace="ml", replicas=5, watch="latency", base=None, steps="1,10,60,100")),
    "argo-canary-optional": ("argo", make_wish(optional="error-rate,latency")),
    "argo-canary-at-once": ("argo", make_wish(steps="100")),
    "argo-blue-green": ("argo", make_wish(BLUE_GREEN, watch="latency")),
    "argo-rolling": ("argo", make_wish(ROLLING, replicas=3)),
    "argo-at-once": ("argo", make_wish(AT_ONCE)),
    "flagger-canary": ("flagger", make_wish(namespace="ml")),
    "flagger-canary-short": ("flagger", make_wish(interval="500ms", watch="latency", optional="error-rate")),
    "flagger-blue-green": ("flagger", make_wish(BLUE_GREEN)),
    "flagger-at-once": ("flagger", make_wish(AT_ONCE)),
    "kserve-canary": ("kserve", make_wish(namespace="ml")),
    "kserve-onnx": ("kserve", make_wish(image="", storage="s3://models/digits/7")),
    "kserve-blue-green": ("kserve", make_wish(BLUE_GREEN)),
    "kserve-at-once": ("kserve", make_wish(AT_ONCE, image="")),
}


def main(folder: Path) -> None:
    """Write every case into a folder of its own."""
    for name, (target, wish) in CASES.items():
        export(wish, target).write(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
