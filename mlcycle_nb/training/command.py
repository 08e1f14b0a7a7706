"""``mlcycle train MODEL --script FILE -- ARGUMENTS``: scripts from a terminal, in the same jobs as a notebook's."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlcycle_nb.training.script import split_arguments
from mlcycle_nb.training.submission import parse_params

if TYPE_CHECKING:
    from mlcycle_nb.training.service import TrainingManager

_EXIT_CODES = {"finished": 0, "stopped": 1, "failed": 1}


def names_a_script(arguments: Sequence[str]) -> bool:
    """Return whether a command line trains a script, rather than asking about jobs."""
    ours, _ = split_arguments(arguments)
    return "train" in ours and any(text.partition("=")[0] in {"--script", "--module"} for text in ours)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what ``mlcycle train MODEL --script FILE`` takes."""
    parser.add_argument("model", help="name of the model that the script trains")
    parser.add_argument("--script", metavar="FILE", help="a Python file; its own arguments follow --")
    parser.add_argument("--module", metavar="PKG.MOD", help="a module instead of a file")
    parser.add_argument("--processes", type=int, default=1, help="worker processes (default 1)")
    parser.add_argument("--epochs", type=int, default=1, help="for scripts that use fit() or epochs()")
    parser.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="for scripts that use params"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--mixed-precision", default="no", help="no, bf16 or fp16")
    parser.add_argument("--gradient-accumulation", type=int, default=1)
    parser.add_argument("--restarts", type=int, default=5, help="crashes in a row that are recovered from")
    parser.add_argument("--register", action="store_true", help="register what the script hands over with save_model()")
    parser.add_argument("--no-wait", dest="wait", action="store_false", help="return at once; the job goes on")


def train_script(training: TrainingManager, args: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Train a script and, unless told otherwise, wait for its end; Ctrl-C leaves the job running."""
    handle = training.train_script(
        args.model,
        args.script,
        arguments,
        module=args.module,
        processes=args.processes,
        epochs=args.epochs,
        params=parse_params(args.param),
        seed=args.seed,
        device=args.device,
        mixed_precision=args.mixed_precision,
        gradient_accumulation=args.gradient_accumulation,
        max_restarts=args.restarts,
        register=args.register,
    )
    if handle.attached:
        print(f"attached to running job {handle.id}", file=sys.stderr)
    if not args.wait:
        print(json.dumps({"job": handle.id}) if args.json else handle.id)
        return 0
    try:
        record = handle.wait()
    except KeyboardInterrupt:
        print(f"{handle.id} goes on; mlcycle train stop {handle.id} ends it", file=sys.stderr)
        return 130
    if args.json:
        print(json.dumps({"job": record.id, "phase": record.phase, "failure": str(record.failure or "")}))
    else:
        output = training.logs(record.id)
        print(*([output] if output else []), repr(record), sep="\n")
    return _EXIT_CODES.get(record.phase, 1)
