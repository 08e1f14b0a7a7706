"""What ``%%train --search`` and ``%train search`` understand: parse, call, return."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import InvalidInput, did_you_mean
from mlcycle_nb.notebook.arguments import argument, magic_arguments, output_options, parse, wait_options

if TYPE_CHECKING:
    from mlcycle_nb.notebook.magics import StageMagics
    from mlcycle_nb.training.search.handle import SearchHandle
    from mlcycle_nb.training.search.service import Searches
    from mlcycle_nb.training.service import TrainingManager

VERBS = ("list", "show", "stop", "resume")
_ONLY_WITH_SEARCH = ("trials", "sampler", "prune", "concurrent", "metric", "direction", "max_failures")


def search_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a search, of which ``--search`` makes a cell one."""
    for option in reversed(
        (
            argument(
                "--search",
                nargs="+",
                metavar="ENTRY",
                help="values to search over: lr=log:1e-4..1e-1 hidden=32,64 depth=int:1..4, or the name of a dict",
            ),
            argument("--trials", type=int, help="with --search: trials in all, over all restarts (default 20)"),
            argument("--sampler", help="with --search: tpe (default), random, grid, qmc or cmaes"),
            argument("--prune", help="with --search: none (default), median, asha, hyperband or percentile"),
            argument("--concurrent", type=int, help="with --search: trials at once (default: by cores and memory)"),
            argument("--metric", help="with --search: what the cell reports (default val_loss)"),
            argument("--direction", help="with --search: minimize or maximize (default: by the metric's name)"),
            argument("--max-failures", type=int, help="with --search: failed trials in a row that end it (default 5)"),
        )
    ):
        function = option(function)
    return function


def refuse_without_search(args: Namespace) -> None:
    """Refuse options of a search where there is none."""
    for name in _ONLY_WITH_SEARCH:
        value = getattr(args, name)
        if value is not None and args.search is None:
            option = f"--{name.replace('_', '-')}"
            remedy = "add --search NAME=LOW..HIGH, or leave it out"
            raise InvalidInput(f"{option} belongs to a search", value=value, where="%%train", remedy=remedy)


def begin(
    training: TrainingManager, args: Namespace, source: str, namespace: Mapping[str, Any], **options: Any
) -> SearchHandle:
    """Begin the search of a ``%%train`` cell, or attach to it."""
    from mlcycle_nb.training.search.service import space_of

    asked = {name: getattr(args, name) for name in _ONLY_WITH_SEARCH if name != "prune"}
    asked |= {"pruner": args.prune}
    given = {name: value for name, value in asked.items() if value is not None}
    space = space_of(args.search, namespace)
    handle = training.search(args.model, source, namespace, space=space, **given, **options)
    if handle.attached:
        record = handle.record
        if record.active:
            print(f"attached to running search {record.id}")
        else:
            print(f"search {record.id} has its {record.ended} trials; --trials N asks for more, --seed N for another")
    return handle


@magic_arguments("%train search")
@argument("verb", nargs="?", default="list", help="list, show, stop or resume")
@argument("search", nargs="?", help="search id, or a model's name for its newest search")
@argument("--trials", type=int, help="with resume: trials in all, over all restarts")
@argument("--reason", default="", help="with stop and resume: why")
@wait_options
@output_options
def run_line(magics: StageMagics, searches: Searches, line: str) -> Any:
    """List searches, show one, stop one, or go on with one."""
    args = parse(run_line, line)
    if args.verb not in VERBS:
        remedy = f"{did_you_mean(args.verb, VERBS)}use {', '.join(VERBS[:-1])} or {VERBS[-1]}"
        raise InvalidInput("unknown verb", value=args.verb, where="%train search", remedy=remedy)
    if args.verb == "list":
        from mlcycle_nb.training.search.listing import SearchList

        return magics.deliver(SearchList(searches.all(args.search)), args)
    if args.search is None:
        raise InvalidInput(f"{args.verb} needs a search", where="%train search", remedy="%train search list shows them")
    if args.verb == "stop":
        searches.stop(args.search, reason=args.reason)
    elif args.verb == "resume":
        return follow(magics, searches.resume(args.search, trials=args.trials, reason=args.reason), args)
    handle = searches.attach(args.search)
    return magics.deliver(handle, args) if args.verb == "show" else follow(magics, handle, args)


def follow(magics: StageMagics, handle: SearchHandle, args: Namespace) -> Any:
    """Show a search, and wait for it where that was asked for."""
    shown = magics.follow(handle, args)
    if magics.should_wait(args):
        from mlcycle_nb.training.search.handle import raise_if_failed

        raise_if_failed(handle.record)
    return shown
