"""``%%train`` and ``%train``: parse, call, return."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from IPython.core.magic import cell_magic, line_magic, magics_class

from mlcycle_nb.development.lineage.cell_log import running_number
from mlcycle_nb.errors import InvalidInput, did_you_mean
from mlcycle_nb.notebook.arguments import argument, magic_arguments, output_options, parse, split, wait_options
from mlcycle_nb.notebook.magics import StageMagics
from mlcycle_nb.training.node_options import node_options, node_values, tell_commands
from mlcycle_nb.training.search import verbs as search_verbs
from mlcycle_nb.training.search.verbs import refuse_without_search, search_options
from mlcycle_nb.training.trouble_options import trouble_options, trouble_values

if TYPE_CHECKING:
    from argparse import Namespace


@magics_class
class TrainingMagics(StageMagics):
    """The training stage's magics."""

    @magic_arguments("%%train")
    @argument("model", help="name of the model that the cell trains")
    @argument("--processes", type=int, default=1, help="worker processes (default 1)")
    @argument("--epochs", type=int, default=1, help="passes over the data (default 1)")
    @argument("--param", action="append", default=[], metavar="NAME=VALUE", help="a value for `params`; repeatable")
    @argument("--seed", type=int, default=0, help="seed of everything random (default 0)")
    @argument("--device", default="auto", help="auto, cpu or cuda")
    @argument("--mixed-precision", default="no", help="no, bf16 or fp16")
    @argument("--gradient-accumulation", type=int, default=1, help="batches for one optimizer step")
    @argument("--checkpoint-every", default="30s", help="steps (200) or time (30s), besides one after each epoch")
    @argument("--keep-last", type=int, default=2, help="newest checkpoints that stay")
    @argument("--keep-best", type=int, default=1, help="best checkpoints that stay")
    @argument("--restarts", type=int, default=5, help="crashes in a row that are recovered from")
    @argument("--register", action="store_true", help="package and register the model when it has been trained")
    @argument("--script", metavar="FILE", help="run a Python file instead of the cell; its arguments follow --")
    @argument("--module", metavar="PKG.MOD", help="run a module instead of the cell; its arguments follow --")
    @argument("--dry-run", action="store_true", help="two batches in each process: speed, memory, time; keeps nothing")
    @argument("--environment", default="", metavar="NAME", help="isolated environment to train in; see %%environment")
    @node_options
    @trouble_options
    @search_options
    @wait_options
    @output_options
    @cell_magic("train")
    def train_cell(self, line: str, cell: str) -> Any:
        """Train a model in worker processes outside the kernel.

        The cell may use whatever the notebook defines, and besides: fit(model, optimizer, train_loader, val_loader,
        loss=...), or accelerator, params, epochs(), batches(loader), log(...), checkpoint(...), save_model(...) for a
        loop of its own. Running the same cell again attaches to the running job.

        %train MODEL --script FILE -- ARGUMENTS runs an unmodified training script in the same way.

        With --search many trials of the cell are run, each with other values in `params`; %train search has its verbs.
        """
        from mlcycle_nb.training.submission import parse_params

        line, arguments = _without_arguments(line)
        args = parse(self.train_cell, line)
        refuse_without_search(args)
        if args.dry_run and not (args.search is None and args.script is None and args.module is None):
            raise InvalidInput(
                "a dry run tries one cell, without --search, --script or --module",
                where="%%train --dry-run",
                remedy="give the values of one trial by --param",
            )
        if args.script is not None or args.module is not None:
            if args.search is not None:
                raise InvalidInput(
                    "a script cannot be searched over: it takes no values from `params`",
                    where="%%train --search",
                    remedy="call it from a cell, with the values it needs read from params",
                )
            return self._train_script(args, arguments, cell)
        if arguments:
            raise InvalidInput(
                "a cell has no arguments",
                value=arguments,
                where="%%train",
                remedy="give --param NAME=VALUE for `params`",
            )
        assert self.shell is not None
        training, source, namespace = self.workspace.training, self._source(cell), self._namespace()
        options: dict[str, Any] = {
            "cell_number": running_number(self.shell),
            "processes": args.processes,
            "epochs": args.epochs,
            "params": parse_params(args.param),
            "seed": args.seed,
            "device": args.device,
            "mixed_precision": args.mixed_precision,
            "gradient_accumulation": args.gradient_accumulation,
            "checkpoint_every": args.checkpoint_every,
            "keep_last": args.keep_last,
            "keep_best": args.keep_best,
            "max_restarts": args.restarts,
            **node_values(args),
            **trouble_values(args),
            "environment": args.environment,
            "register": args.register,
        }
        if args.search is not None:
            return search_verbs.follow(self, search_verbs.begin(training, args, source, namespace, **options), args)
        if args.dry_run:
            return self.deliver(training.dry_run(args.model, source, namespace, **options), args)
        handle = training.train_model(args.model, source, namespace, **options)
        _tell_attached(handle)
        tell_commands(training, handle.id)
        return self._follow(handle, args)

    @magic_arguments("%train")
    @argument(
        "verb", nargs="?", default="list", help="list, attach, logs, stop, resume, register (%%train trains a cell)"
    )
    @argument("job", nargs="?", help="job id, or a model's name for its newest job")
    @argument("--rank", type=int, help="with logs: one rank only")
    @argument("--lines", type=int, default=200, help="with logs: how many lines at most (default 200)")
    @argument("--follow", action="store_true", help="with logs: go on until the job ends, or the cell is interrupted")
    @argument("--reason", default="", help="with stop: why")
    @wait_options
    @output_options
    @line_magic
    def train(self, line: str) -> Any:
        """List training jobs, attach to one, read its output, stop or resume it, or register what it trained.

        %train MODEL --script FILE, or --module PKG.MOD, trains a script; %%train --help has the options.
        %train search list, show ID, stop ID and resume ID are for searches over hyperparameters.
        """
        if any(token.partition("=")[0] in {"--script", "--module"} for token in split(line, magic="%train")):
            return self.train_cell(line, "")
        _explain_two_signs(line)
        if line.split()[:1] == ["search"]:
            return search_verbs.run_line(self, self.workspace.training.searches, line.strip().removeprefix("search"))
        args = parse(self.train, line)
        training = self.workspace.training
        if args.verb == "list":
            return self.deliver(training.overview(args.job), args)
        verbs = {"attach": self._attach, "logs": self._logs, "stop": self._stop, "resume": self._resume}
        verbs["register"] = self._register
        if args.job is None:
            raise InvalidInput(f"{args.verb} needs a job", where="%train", remedy="%train list shows them")
        return verbs[args.verb](args)

    # -- verbs -----------------------------------------------------------------------------------------------

    def _attach(self, args: Namespace) -> Any:
        return self._follow(self.workspace.training.attach(args.job), args)

    def _logs(self, args: Namespace) -> Any:
        from mlcycle_nb.notebook.html import Printed
        from mlcycle_nb.training.log_view import follow_logs

        training = self.workspace.training
        if args.follow:
            left = follow_logs(training, args.job, rank=args.rank, lines=args.lines)
            return None if left is None else self.deliver(left, args)
        return self.deliver(Printed(training.logs(args.job, rank=args.rank, lines=args.lines)), args)

    def _stop(self, args: Namespace) -> Any:
        training = self.workspace.training
        training.stop(args.job, reason=args.reason)
        return self._follow(training.attach(args.job), args)

    def _resume(self, args: Namespace) -> Any:
        handle = self.workspace.training.resume(args.job)
        _tell_attached(handle)
        return self._follow(handle, args)

    def _register(self, args: Namespace) -> Any:
        return self.deliver(self.workspace.training.register(args.job), args)

    # -- parts -----------------------------------------------------------------------------------------------

    def _train_script(self, args: Namespace, arguments: list[str], cell: str) -> Any:
        from mlcycle_nb.training.submission import parse_params

        if any(text and not text.startswith("#") for text in map(str.strip, cell.splitlines())):
            raise InvalidInput(
                "there is a cell and a script, and only one of them can be trained",
                value=args.script or args.module,
                where="%%train",
                remedy="leave the cell empty, or leave --script and --module out",
            )
        handle = self.workspace.training.train_script(
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
            checkpoint_every=args.checkpoint_every,
            keep_last=args.keep_last,
            keep_best=args.keep_best,
            max_restarts=args.restarts,
            **trouble_values(args),
            environment=args.environment,
            register=args.register,
        )
        _tell_attached(handle)
        return self._follow(handle, args)

    def _follow(self, handle: Any, args: Namespace) -> Any:
        shown = self.follow(handle, args)
        if self.should_wait(args):
            from mlcycle_nb.training.handle import raise_if_failed

            raise_if_failed(handle.record)
        return shown

    def _source(self, cell: str) -> str:
        """Return the cell as Python whose line numbers count the magic's own line."""
        assert self.shell is not None
        if not cell.strip():
            return ""
        return "\n" + str(self.shell.transform_cell(cell))

    def _namespace(self) -> dict[str, Any]:
        assert self.shell is not None
        return dict(self.shell.user_ns)


VERBS = ("list", "attach", "logs", "stop", "register", "search")


def _tell_attached(handle: Any) -> None:
    if handle.resumed_from is not None:
        print(f"going on with job {handle.id} from step {handle.resumed_from} (--resume never begins anew)")
    elif handle.attached:
        print(f"attached to running job {handle.id}")


def _without_arguments(line: str) -> tuple[str, list[str]]:
    """Split a line at ``--``: ours before it, the script's arguments after it."""
    from mlcycle_nb.training.script import split_arguments

    ours, arguments = split_arguments(split(line, magic="%%train"))
    return shlex.join(ours), arguments


def _explain_two_signs(line: str) -> None:
    """Refuse ``%train MODEL ...``: somebody who means to train a cell has left a sign out."""
    tokens = split(line, magic="%train")
    if not tokens or tokens[0] in VERBS or tokens[0].startswith("-"):
        return
    near = did_you_mean(tokens[0], VERBS)
    meant = f"did you mean %%train {line.strip()}?"
    raise InvalidInput(
        "unknown verb",
        value=tokens[0],
        where="%train",
        remedy=f"{near or meant} %%train (two signs) at the top of a cell trains the code below it; "
        f"after %train come {', '.join(VERBS[:-1])} or {VERBS[-1]}, or MODEL --script FILE",
    )
