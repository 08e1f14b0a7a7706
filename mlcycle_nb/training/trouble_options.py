"""Options of ``%%train`` for signals and trouble."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from mlcycle_nb.notebook.arguments import argument


def trouble_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options."""
    for option in reversed(
        (
            argument(
                "--grace", default="30s", help="from being told to stop to a checkpoint and the end (default 30s)"
            ),
            argument("--stall", default="20m", help="no step for so long is a stall (default 20m)"),
            argument(
                "--on-trouble",
                action="append",
                default=[],
                metavar="[KIND=]POLICY",
                help="stop, rollback or ignore, on non_finite, non_finite_gradient, loss_spike, stall or out_of_memory",
            ),
            argument("--rollbacks", type=int, default=3, help="roll-backs of one job (default 3)"),
            argument("--resume", default="auto", help="auto or never: go on with a job that was stopped or shut down"),
        )
    ):
        function = option(function)
    return function


def trouble_values(args: Namespace) -> dict[str, Any]:
    """Return what the options say, as `TrainingManager.train_model` takes it."""
    from mlcycle_nb.training.trouble import parse_policies

    policies = parse_policies(args.on_trouble) if args.on_trouble else {}
    return {
        "grace": args.grace,
        "stall": args.stall,
        "on_trouble": policies,
        "max_rollbacks": args.rollbacks,
        "resume": args.resume,
    }
