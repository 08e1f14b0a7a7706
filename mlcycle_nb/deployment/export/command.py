"""``mlcycle export``: the plan of a rollout as files, from a terminal."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlcycle_nb.deployment.export.manifest import ExportedPlan
    from mlcycle_nb.deployment.service import ModelDeploymentManager

_POLICY = (
    ("--steps", "canary weights in percent (default 5,25,50,100)"),
    ("--interval", "how long each step is held at least (default 60s)"),
    ("--deadline", "how long an undecided step is held at most (default 1h)"),
    ("--mirror", "percent of the requests that both versions answer (default 20)"),
    ("--warm", "how long the old version is kept (default 5m)"),
    ("--max-disagreement", "tolerated share of differing answers"),
    ("--max-error-increase", "tolerated increase of the error rate"),
    ("--max-slowdown", "tolerated slow-down"),
    ("--max-shift", "tolerated increase of one kind of answer"),
    ("--max-accuracy-loss", "tolerated increase of wrong answers"),
    ("--require", "metrics that must be shown to be good"),
    ("--optional", "metrics that can only send it back"),
    ("--watch", "metrics that decide nothing"),
)
PLACES = (
    ("--image", "image with mlcycle-nb and the package, such as registry.example/digits:v7"),
    ("--namespace", "namespace of the objects (default: the current one when they are applied)"),
    ("--prometheus", "address of Prometheus (default http://prometheus.istio-system:9090)"),
    ("--storage", "kserve without --image: where the model is, such as pvc://models/digits/7"),
)
"""Options that say where the cluster finds things; `%deploy` has them as well."""


def add_options(parser: ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("reference", help="NAME/VERSION or NAME@ALIAS")
    parser.add_argument("target", help="argo, flagger or kserve")
    parser.add_argument("--to", metavar="FOLDER", help="write the files there; printed by default")
    parser.add_argument("--env", default="production", help="environment (default production)")
    parser.add_argument("--strategy", help="canary, blue-green, rolling or all-at-once (default: the environment's)")
    parser.add_argument("--replicas", type=int, help="replicas of the new version (default 2)")
    parser.add_argument("--min-requests", type=int, help="requests of the new version at each step (default 100)")
    for option, text in (*_POLICY, *PLACES):
        parser.add_argument(option, help=text)
    parser.add_argument("--force", action="store_true", help="past the gates of the environment; needs --reason")
    parser.add_argument("--reason", default="", help="why; recorded in the audit trail")


def run(deployment: ModelDeploymentManager, args: Namespace) -> ExportedPlan:
    """Export what the options say."""
    policy: dict[str, Any] = {name: getattr(args, name) for name in (*_names(_POLICY), "min_requests")}
    policy |= {name: policy[name] or () for name in ("require", "optional", "watch")}
    strategy = args.strategy or ("canary" if args.steps else None)
    return deployment.export_plan(
        args.reference,
        args.target,
        args.env,
        strategy,
        to=args.to,
        replicas=args.replicas,
        force=args.force,
        reason=args.reason,
        **{name: getattr(args, name) or "" for name in _names(PLACES)},
        **policy,
    )


def _names(options: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    return tuple(option[2:].replace("-", "_") for option, _ in options)
