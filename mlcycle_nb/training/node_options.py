"""The options of ``%%train`` for several hosts, and what is printed for the others."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.notebook.arguments import argument

if TYPE_CHECKING:
    from mlcycle_nb.training.service import TrainingManager


def node_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a job on several hosts."""
    for option in (
        argument("--join-timeout", default="10m", help="with --nodes: how long the other hosts may take to join"),
        argument("--rendezvous", default="", metavar="HOST:PORT", help="with --nodes: address of this host to meet at"),
        argument("--nodes", type=int, default=1, help="hosts, each with --processes; the workspace folder is shared"),
    ):
        function = option(function)
    return function


def node_values(args: Namespace) -> dict[str, Any]:
    """Return what `train_model` takes of them.

    Raises
    ------
    InvalidInput
        When they stand beside an option that works on one host only.
    """
    values = {"nodes": args.nodes, "rendezvous": args.rendezvous, "join_timeout": args.join_timeout}
    if args.nodes != 1:
        for name in ("search", "script", "module", "environment"):
            if getattr(args, name):
                refuse_several(f"--{name}")
        if args.dry_run:
            refuse_several("--dry-run")
    return values


def refuse_several(what: str) -> None:
    """Say that something works on one host only."""
    raise InvalidInput(f"{what} works on one host", where="--nodes", remedy="leave --nodes out, or train a plain cell")


def tell_commands(training: TrainingManager, job: str) -> None:
    """Print the line that each of the other hosts of a job runs; nothing for a job on one host."""
    commands = training.join_commands(job)
    if not commands:
        return
    print(f"{job} waits for {len(commands)} more host{'s' if len(commands) > 1 else ''}; run on each:")
    for command in commands:
        print(f"  {command}")
    print("whoever reaches that port can disturb the run, since torch's store knows no keys: use a private network")
